//! `storage.conf`, which `crio.conf` builds on (containers-storage.conf(5)): its files, merged key by
//! key, and what they say about `[crio]`.

mod files;
mod keys;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

pub use self::files::StorageSources;
use self::keys::{KEYS, Key, Meaning};
use crate::file::line;
use crate::row::Kind;
use crate::{Error, Origin, Value};

/// What all files say.
#[derive(Debug, Default)]
pub(crate) struct StorageConf {
    /// By table and name of the key.
    values: BTreeMap<(&'static str, &'static str), Set>,
    /// Keys that nobody knows.
    pub(crate) unknown: Vec<(String, Origin)>,
    /// Stands in for the files' driver.
    driver: Option<(String, Origin)>,
    /// Stands in for the files' storage options.
    options: Option<(Vec<String>, Origin)>,
}

/// A key that was set.
#[derive(Debug, Clone, PartialEq)]
struct Set {
    value: Value,
    origin: Origin,
    /// For a list: whether later files add to it.
    append: bool,
}

impl StorageConf {
    /// Reads and merges all sources.
    ///
    /// # Errors
    /// A file that can't be read, is not TOML, or holds a value of a wrong type.
    pub(crate) fn load(sources: &StorageSources) -> Result<Self, Error> {
        let mut conf = Self::default();
        for path in sources.files()? {
            let text = fs::read_to_string(&path).map_err(|source| Error::Read {
                path: path.clone(),
                source,
            })?;
            conf.take(&path, &text)?;
        }
        conf.driver = sources
            .driver
            .clone()
            .map(|driver| (driver, Origin::Environment("STORAGE_DRIVER")));
        conf.options = sources.options.as_ref().map(|options| {
            let options = options.split(',').filter(|option| !option.is_empty());
            let options = options.map(str::to_owned).collect();
            (options, Origin::Environment("STORAGE_OPTS"))
        });
        Ok(conf)
    }

    /// Adds one file to what the earlier ones said.
    pub(crate) fn take(&mut self, path: &Path, text: &str) -> Result<(), Error> {
        let document = DeTable::parse(text).map_err(|wrong| Error::Syntax {
            at: Origin::File(
                path.to_owned(),
                line(text, wrong.span().map_or(0, |span| span.start)),
            ),
            message: wrong.message().to_owned(),
        })?;
        let at = |offset| Origin::File(path.to_owned(), line(text, offset));
        self.table("", document.get_ref(), &at)
    }

    fn table(
        &mut self,
        table: &str,
        entries: &DeTable<'_>,
        at: &impl Fn(usize) -> Origin,
    ) -> Result<(), Error> {
        for (name, value) in entries {
            let full = if table.is_empty() {
                name.get_ref().to_string()
            } else {
                format!("{table}.{}", name.get_ref())
            };
            let origin = at(name.span().start);
            match (keys::find(table, name.get_ref()), value.get_ref()) {
                (Some(key), _) => self.set(key, value, origin)?,
                (None, DeValue::Table(entries)) if keys::is_table(&full) => {
                    self.table(&full, entries, at)?;
                }
                (None, _) => self.unknown.push((full, origin)),
            }
        }
        Ok(())
    }

    fn set(
        &mut self,
        key: &'static Key,
        value: &Spanned<DeValue<'_>>,
        origin: Origin,
    ) -> Result<(), Error> {
        let read = match key.kind {
            Kind::List => list(value.get_ref()),
            kind => Value::from_toml(kind, value.get_ref()).map(|value| (value, None)),
        };
        let Some((mut value, append)) = read else {
            return Err(Error::Type {
                key: format!("{}.{}", key.table, key.name),
                wanted: key.kind.name(),
                at: origin,
            });
        };
        let place = (key.table, key.name);
        let earlier = self.values.get(&place);
        let append = append.unwrap_or_else(|| earlier.is_some_and(|earlier| earlier.append));
        match (&mut value, earlier.map(|earlier| &earlier.value)) {
            (Value::List(new), Some(Value::List(old))) if append => {
                new.splice(0..0, old.iter().cloned());
            }
            // Tables merge key by key.
            (Value::Map(new), Some(Value::Map(old))) => {
                for (name, value) in old {
                    new.entry(name.clone()).or_insert_with(|| value.clone());
                }
            }
            _ => {}
        }
        let set = Set {
            value,
            origin,
            append,
        };
        self.values.insert(place, set);
        Ok(())
    }

    /// What the files say about options of `[crio]`: the option's key, its value, where it was set.
    pub(crate) fn options(&self) -> Vec<(&'static str, Value, Origin)> {
        let mut options = Vec::new();
        let mut storage = Vec::new();
        let mut storage_at = None;
        for (key, set) in self.in_order() {
            match (key.meaning, &set.value) {
                (Meaning::Option(option), value) if !value.is_empty() => {
                    options.push((option, value.clone(), set.origin.clone()));
                }
                (Meaning::Path(option), Value::Text(path)) if !path.is_empty() => {
                    let path = Value::Text(expand(path));
                    options.push((option, path, set.origin.clone()));
                }
                (Meaning::Storage(_) | Meaning::Mask(_), _) => {
                    storage.extend(storage_options(key, &set.value));
                    storage_at.get_or_insert_with(|| set.origin.clone());
                }
                _ => {}
            }
        }
        if let Some((driver, origin)) = &self.driver {
            let driver = Value::Text(driver.clone());
            options.push(("storage_driver", driver, origin.clone()));
        }
        if let Some((given, origin)) = &self.options {
            storage.clone_from(given);
            storage_at = Some(origin.clone());
        }
        if let Some(origin) = storage_at {
            options.push(("storage_option", Value::List(storage), origin));
        }
        options
    }

    /// Keys that are set and do nothing: full name, place, reason.
    pub(crate) fn ignored(&self) -> impl Iterator<Item = (String, Origin, &'static str)> {
        self.in_order().filter_map(|(key, set)| match key.meaning {
            Meaning::Ignored(why) if !set.value.is_empty() => {
                let name = format!("{}.{}", key.table, key.name);
                Some((name, set.origin.clone(), why))
            }
            _ => None,
        })
    }

    /// How images are to be pulled (`[storage.options.pull_options]`), as it was written.
    pub(crate) fn pull_options(&self) -> BTreeMap<String, String> {
        let set = self
            .in_order()
            .find(|(key, _)| key.meaning == Meaning::Pull);
        match set.map(|(_, set)| &set.value) {
            Some(Value::Map(options)) => options.clone(),
            _ => BTreeMap::new(),
        }
    }

    fn in_order(&self) -> impl Iterator<Item = (&'static Key, &Set)> {
        KEYS.iter()
            .filter_map(|key| Some((key, self.values.get(&(key.table, key.name))?)))
    }
}

/// A key's storage options, as `crio.conf` has them.
fn storage_options(key: &Key, value: &Value) -> Vec<String> {
    match (key.meaning, value) {
        (Meaning::Storage(name), Value::List(items)) => {
            let items = items.iter().filter(|item| !item.is_empty());
            items.map(|item| format!("{name}={item}")).collect()
        }
        (Meaning::Storage(name), Value::Text(text)) if !text.is_empty() => {
            vec![format!("{name}={text}")]
        }
        (Meaning::Storage(name), Value::Bool(true)) => vec![format!("{name}=true")],
        (Meaning::Mask(name), Value::Integer(mask)) if *mask != 0 => {
            vec![format!("{name}={mask:o}")]
        }
        _ => Vec::new(),
    }
}

/// A list of strings, and what an element `{ append = … }` in it says.
fn list(value: &DeValue<'_>) -> Option<(Value, Option<bool>)> {
    let (mut strings, mut append) = (Vec::new(), None);
    for element in value.as_array()? {
        match element.get_ref() {
            DeValue::String(text) => strings.push(text.to_string()),
            DeValue::Table(attributes) => {
                for (name, value) in attributes {
                    let known = name.get_ref() == "append";
                    append = Some(value.get_ref().as_bool().filter(|_| known)?);
                }
            }
            _ => return None,
        }
    }
    Some((Value::List(strings), append))
}

/// Replaces `$NAME` and `${NAME}` by the environment's, `$UID` by the daemon's.
fn expand(path: &str) -> String {
    let mut expanded = String::new();
    let mut rest = path;
    while let Some(at) = rest.find('$') {
        expanded.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let braced = after
            .strip_prefix('{')
            .and_then(|inner| inner.split_once('}'));
        let (name, tail) = braced.unwrap_or_else(|| {
            let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let end = after.find(|c| !is_name(c)).unwrap_or(after.len());
            after.split_at(end)
        });
        if name == "UID" {
            expanded.push('0');
        } else {
            expanded.push_str(&std::env::var(name).unwrap_or_default());
        }
        rest = tail;
    }
    expanded + rest
}

#[cfg(test)]
mod tests;
