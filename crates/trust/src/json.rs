//! JSON that may not be ambiguous: no key twice, and none that nobody asked for.
//!
//! What one reader overlooks another may obey; so `containers-policy.json(5)` and
//! `containers-signature(5)` ask for this.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Parses a text without duplicate keys at any depth.
pub(crate) fn parse(bytes: &[u8]) -> Result<Value, String> {
    let mut source = serde_json::Deserializer::from_slice(bytes);
    let value = Unique
        .deserialize(&mut source)
        .map_err(|error| error.to_string())?;
    source.end().map_err(|error| error.to_string())?;
    Ok(value)
}

struct Unique;

impl<'de> DeserializeSeed<'de> for Unique {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<Value, D::Error> {
        source.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Unique {
    type Value = Value;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        let number = Number::from_f64(value).ok_or_else(|| E::custom("a number out of range"))?;
        Ok(Value::Number(number))
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(Unique)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = items.next_key::<String>()? {
            if map.contains_key(&key) {
                return Err(A::Error::custom(format!("duplicate key {key:?}")));
            }
            let value = items.next_value_seed(Unique)?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

/// An object whose keys are taken one by one; [`Object::end`] fails on one that is left.
pub(crate) struct Object {
    what: &'static str,
    map: Map<String, Value>,
}

impl Object {
    /// The object that `value` is; `what` is how errors call it.
    pub(crate) fn of(what: &'static str, value: Value) -> Result<Self, String> {
        match value {
            Value::Object(map) => Ok(Self { what, map }),
            _ => Err(format!("{what} is no object")),
        }
    }

    /// A text that holds an object.
    pub(crate) fn parse(what: &'static str, bytes: &[u8]) -> Result<Self, String> {
        let value = parse(bytes).map_err(|error| format!("{what}: {error}"))?;
        Self::of(what, value)
    }

    /// Takes a key's value, if it is there.
    pub(crate) fn take(&mut self, key: &str) -> Option<Value> {
        self.map.shift_remove(key)
    }

    /// Takes a key's value, which has to be there.
    pub(crate) fn need(&mut self, key: &str) -> Result<Value, String> {
        let what = self.what;
        self.take(key)
            .ok_or_else(|| format!("{what} has no {key:?}"))
    }

    pub(crate) fn object(&mut self, key: &'static str) -> Result<Self, String> {
        Self::of(key, self.need(key)?)
    }

    pub(crate) fn string(&mut self, key: &str) -> Result<String, String> {
        let value = self.need(key)?;
        self.text(key, value)
    }

    pub(crate) fn string_if_any(&mut self, key: &str) -> Result<Option<String>, String> {
        match self.take(key) {
            None => Ok(None),
            Some(value) => self.text(key, value).map(Some),
        }
    }

    pub(crate) fn strings_if_any(&mut self, key: &str) -> Result<Option<Vec<String>>, String> {
        let items = match self.take(key) {
            None => return Ok(None),
            Some(Value::Array(items)) => items,
            Some(_) => return Err(format!("{key:?} of {} is no list", self.what)),
        };
        let texts = items.into_iter().map(|item| self.text(key, item));
        texts.collect::<Result<_, _>>().map(Some)
    }

    /// Bytes, in base64.
    pub(crate) fn bytes(&mut self, key: &str) -> Result<Vec<u8>, String> {
        let text = self.string(key)?;
        decode(key, &text)
    }

    pub(crate) fn bytes_if_any(&mut self, key: &str) -> Result<Option<Vec<u8>>, String> {
        let text = self.string_if_any(key)?;
        text.map(|text| decode(key, &text)).transpose()
    }

    pub(crate) fn byte_lists_if_any(&mut self, key: &str) -> Result<Option<Vec<Vec<u8>>>, String> {
        let Some(texts) = self.strings_if_any(key)? else {
            return Ok(None);
        };
        let all = texts.iter().map(|text| decode(key, text));
        all.collect::<Result<_, _>>().map(Some)
    }

    /// What is left, for those who take any key.
    pub(crate) fn rest(self) -> Map<String, Value> {
        self.map
    }

    /// Fails if there is a key that was not taken.
    pub(crate) fn end(self) -> Result<(), String> {
        match self.map.keys().next() {
            None => Ok(()),
            Some(key) => Err(format!("unknown key {key:?} in {}", self.what)),
        }
    }

    fn text(&self, key: &str, value: Value) -> Result<String, String> {
        match value {
            Value::String(text) => Ok(text),
            _ => Err(format!("{key:?} of {} is no string", self.what)),
        }
    }
}

/// Base64 with padding; line breaks in it are skipped, as Go does.
pub(crate) fn decode(what: &str, text: &str) -> Result<Vec<u8>, String> {
    let plain: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
    let decoded = STANDARD.decode(plain);
    decoded.map_err(|error| format!("{what:?} is no base64: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_there_twice_is_an_error_at_any_depth() {
        for (text, good) in [
            (r#"{"a":1,"b":[{"c":null},{"c":-1.5}]}"#, true),
            (r#"{"a":1,"a":1}"#, false),
            (r#"{"b":[{"c":1,"c":2}]}"#, false),
            (r#"{"a":1} x"#, false),
            (r#"{"a":1}{}"#, false),
        ] {
            assert_eq!(parse(text.as_bytes()).is_ok(), good, "{text}");
        }
    }

    #[test]
    fn deep_nesting_is_an_error_and_no_overflow() {
        assert!(parse("[".repeat(100_000).as_bytes()).is_err());
    }

    #[test]
    fn keys_that_nobody_took_are_an_error() {
        let mut object = Object::parse("x", br#"{"a":"QQ==","b":["c"]}"#).unwrap();
        assert_eq!(object.bytes("a").unwrap(), b"A");
        assert_eq!(object.strings_if_any("b").unwrap().unwrap(), ["c"]);
        assert!(object.string("c").is_err());
        assert!(object.end().is_ok());
        assert!(Object::parse("x", br#"{"a":1}"#).unwrap().end().is_err());
        assert!(Object::parse("x", b"[]").is_err());
    }
}
