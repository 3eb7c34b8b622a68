//! Values and how they come out of TOML, a flag or the environment.

use std::collections::BTreeMap;
use std::time::Duration;

use toml::de::{DeString, DeValue};

use crate::row::Kind;

/// A checked value of an option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A string.
    Text(String),
    /// A boolean.
    Bool(bool),
    /// An integer.
    Integer(i64),
    /// Strings.
    List(Vec<String>),
    /// A length of time.
    Duration(Duration),
    /// Strings by name.
    Map(BTreeMap<String, String>),
}

impl Value {
    /// Reads `value` as `kind`; `None` when it is of another type.
    pub(crate) fn from_toml(kind: Kind, value: &DeValue<'_>) -> Option<Self> {
        let text = |value: &DeValue<'_>| match value {
            DeValue::String(text) => Some(DeString::to_string(text)),
            _ => None,
        };
        match kind {
            Kind::Text => text(value).map(Self::Text),
            Kind::Duration => duration(&text(value)?).map(Self::Duration),
            Kind::Bool => value.as_bool().map(Self::Bool),
            Kind::Integer => {
                let integer = value.as_integer()?;
                i64::from_str_radix(integer.as_str(), integer.radix())
                    .ok()
                    .map(Self::Integer)
            }
            Kind::List => {
                let items = value.as_array()?.iter().map(|item| text(item.get_ref()));
                items.collect::<Option<_>>().map(Self::List)
            }
            Kind::Map => {
                let pairs = value.as_table()?.iter();
                let pairs = pairs.map(|(name, value)| {
                    Some((name.get_ref().to_string(), text(value.get_ref())?))
                });
                pairs.collect::<Option<_>>().map(Self::Map)
            }
            Kind::Table => None,
        }
    }

    /// Whether it is an empty string, an empty list or map, or false.
    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::Text(text) => text.is_empty(),
            Self::List(items) => items.is_empty(),
            Self::Map(pairs) => pairs.is_empty(),
            Self::Bool(value) => !value,
            Self::Integer(_) | Self::Duration(_) => false,
        }
    }

    /// The value as TOML.
    pub(crate) fn to_toml(&self) -> String {
        let quoted = |text: &String| toml::Value::String(text.clone()).to_string();
        match self {
            Self::Text(text) => quoted(text),
            Self::Bool(value) => value.to_string(),
            Self::Integer(value) => value.to_string(),
            Self::List(items) => format!(
                "[{}]",
                items.iter().map(quoted).collect::<Vec<_>>().join(", ")
            ),
            Self::Duration(value) => format!("\"{}\"", shown(*value)),
            Self::Map(pairs) => {
                let pairs = pairs
                    .iter()
                    .map(|(name, value)| format!("{} = {}", quoted(name), quoted(value)));
                format!("{{ {} }}", pairs.collect::<Vec<_>>().join(", "))
            }
        }
    }

    /// Reads the text of a flag or an environment variable as `kind`; lists are separated by commas.
    pub(crate) fn from_text(kind: Kind, text: &str) -> Option<Self> {
        match kind {
            Kind::Text => Some(Self::Text(text.to_owned())),
            Kind::Duration => duration(text).map(Self::Duration),
            Kind::Bool => match text {
                "true" | "1" | "" => Some(Self::Bool(true)),
                "false" | "0" => Some(Self::Bool(false)),
                _ => None,
            },
            Kind::Integer => text.parse().ok().map(Self::Integer),
            Kind::List if text.is_empty() => Some(Self::List(Vec::new())),
            Kind::List => Some(Self::List(text.split(',').map(str::to_owned).collect())),
            Kind::Map | Kind::Table => None,
        }
    }
}

/// A length of time as Go's `time.Duration` is written: `1h0m0s`, `1m30s`, `2.5s`, `20ms`, `0s`.
fn shown(time: Duration) -> String {
    let (seconds, milliseconds) = (time.as_secs(), time.subsec_millis());
    if seconds == 0 && milliseconds > 0 {
        return format!("{milliseconds}ms");
    }
    let fraction = format!(".{milliseconds:03}");
    let fraction = fraction.trim_end_matches('0').trim_end_matches('.');
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    let rest = format!("{}{fraction}s", seconds % 60);
    match (hours, minutes) {
        (0, 0) => rest,
        (0, _) => format!("{minutes}m{rest}"),
        _ => format!("{hours}h{minutes}m{rest}"),
    }
}

/// Reads Go's notation of durations: `1h30m`, `1.5s`, `300ms`, `0`. Empty means none.
#[must_use]
pub fn duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut total = Duration::ZERO;
    if rest.is_empty() || rest == "0" {
        return Some(total);
    }
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (amount, tail) = rest.split_at(number);
        let unit = tail
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit);
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        let amount: f64 = amount.parse().ok()?;
        total = total.checked_add(Duration::try_from_secs_f64(amount * seconds).ok()?)?;
        rest = tail;
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_go_writes_them() {
        for (milliseconds, text) in [
            (0, "0s"),
            (20, "20ms"),
            (1_500, "1.5s"),
            (90_000, "1m30s"),
            (3_600_000, "1h0m0s"),
            (5_400_250, "1h30m0.25s"),
        ] {
            let time = Duration::from_millis(milliseconds);
            assert_eq!(shown(time), text);
            assert_eq!(duration(text), Some(time), "{text}");
        }
    }

    #[test]
    fn durations_are_read_as_go_writes_them() {
        for (text, wanted) in [
            ("", Some(0)),
            ("0s", Some(0)),
            ("90s", Some(90_000)),
            ("1h30m", Some(5_400_000)),
            ("1.5s", Some(1_500)),
            ("300ms", Some(300)),
            ("5", None),
            ("5 apples", None),
            ("-1s", None),
        ] {
            assert_eq!(
                duration(text),
                wanted.map(Duration::from_millis),
                "{text:?}"
            );
        }
    }
}
