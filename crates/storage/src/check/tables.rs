//! Files of records that can't be read: told, and made readable again from the records in them
//! that can. What is lost is kept beside them, as `<name>.damaged`.
//!
//! A volatile file that a power cut tore is not told here: opening the store makes it again from
//! the containers' own directories.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::de::{SeqAccess, Visitor};
use serde::{Deserializer as _, Serialize};
use serde_json::value::RawValue;
use sys::lock::Kind;

use super::{Damage, Item};
use crate::error::Context;
use crate::paths::Paths;
use crate::record::{ContainerRecord, ImageRecord, LayerRecord, Record};
use crate::table::{self, Files, LastWriter, Rank};
use crate::{Error, Options, limits};

/// Files of records that keep the store at `options` from being opened.
///
/// # Errors
/// [`Error::Io`].
pub fn check_tables(options: &Options) -> Result<Vec<Damage>, Error> {
    each(&Paths::new(options), false, options)
}

/// Makes them readable again, with the records that can be read; says what it did that to.
///
/// # Errors
/// [`Error::Locked`], [`Error::Io`].
pub fn salvage_tables(options: &Options) -> Result<Vec<Damage>, Error> {
    each(&Paths::new(options), true, options)
}

fn each(paths: &Paths, salvage: bool, options: &Options) -> Result<Vec<Damage>, Error> {
    let mut damages = Vec::new();
    let timeout = options.lock_timeout;
    let mut one = |files: Files, rank: Rank, look: fn(&Path, bool) -> Result<_, Error>| {
        if fs::symlink_metadata(&files.lock).is_err() {
            return Ok(());
        }
        let kind = if salvage {
            Kind::Exclusive
        } else {
            Kind::Shared
        };
        let (lock, _order) = table::take(&files.lock, rank, kind, timeout)?;
        for path in files.all() {
            let Some(reason) = look(path, salvage)? else {
                continue;
            };
            if salvage {
                let writer = LastWriter::new();
                lock.write_start(writer.as_bytes())
                    .at("write", &files.lock)?;
            }
            damages.push(Damage {
                item: Item::Table(path.to_owned()),
                reason,
            });
        }
        Ok::<_, Error>(())
    };
    one(paths.layers(), Rank::Layers, file::<LayerRecord>)?;
    one(paths.images(), Rank::Images, file::<ImageRecord>)?;
    one(
        paths.containers(),
        Rank::Containers,
        file::<ContainerRecord>,
    )?;
    Ok(damages)
}

/// What is wrong with one file, and how much of it can be read.
fn file<R: Record>(path: &Path, salvage: bool) -> Result<Option<String>, Error> {
    let json = match fs::File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => {
            let mut json = Vec::new();
            file.at("open", path)?
                .take(limits::TABLE_BYTES)
                .read_to_end(&mut json)
                .at("read", path)?;
            json
        }
    };
    let is_volatile = path
        .file_name()
        .is_some_and(|name| name.as_encoded_bytes().starts_with(b"volatile-"));
    let (records, torn) = records(&json);
    let readable: Vec<R> = records
        .iter()
        .filter_map(|record| serde_json::from_str(record.get()).ok())
        .collect();
    let reason = match torn {
        // Opening the store rebuilds it.
        Some(_) if is_volatile => return Ok(None),
        Some(error) if !json.is_empty() => error.to_string(),
        _ if readable.len() == records.len() => return Ok(None),
        _ => format!(
            "{} of its records make no sense",
            records.len() - readable.len()
        ),
    };
    if salvage {
        write(path, &readable, is_volatile)?;
    }
    let left = readable.len();
    Ok(Some(format!("{reason}; {left} records can be read")))
}

fn write<R: Serialize>(path: &Path, records: &[R], is_volatile: bool) -> Result<(), Error> {
    let mut kept = path.as_os_str().to_owned();
    kept.push(".damaged");
    let kept = PathBuf::from(kept);
    match fs::remove_file(&kept) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).at("remove", kept);
        }
        _ => {}
    }
    // A link and not a rename: without its file a table is empty, and its layers nobody's.
    fs::hard_link(path, &kept).at("keep", &kept)?;
    let json = serde_json::to_vec(records).map_err(|source| Error::Damaged {
        path: path.to_owned(),
        source,
    })?;
    if is_volatile {
        sys::durable::replace_volatile(path, &json, 0o600).at("write", path)
    } else {
        sys::durable::replace(path, &json, 0o600).at("write", path)
    }
}

/// The records of a JSON array up to where it stops being one, and why it does.
pub(crate) fn records(json: &[u8]) -> (Vec<Box<RawValue>>, Option<serde_json::Error>) {
    let mut records = Vec::new();
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let torn = deserializer
        .deserialize_any(Elements(&mut records))
        .and_then(|()| deserializer.end());
    (records, torn.err())
}

struct Elements<'a>(&'a mut Vec<Box<RawValue>>);

impl<'de> Visitor<'de> for Elements<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an array of records")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        while let Some(element) = elements.next_element()? {
            self.0.push(element);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_up_to_the_damage() {
        for (json, count, whole) in [
            ("[]", 0, true),
            ("null", 0, true),
            (r#"[{"id":"a"},{"id":"b"}]"#, 2, true),
            (r#"[{"id":"a"},{"id":"b"#, 1, false),
            (r#"[{"id":"a"},{"id":"b"}"#, 2, false),
            (r#"[{"id":"a"}] x"#, 1, false),
            ("\0\0\0", 0, false),
            (r#"{"id":"a"}"#, 0, false),
            ("", 0, false),
        ] {
            let (found, torn) = records(json.as_bytes());
            assert_eq!((found.len(), torn.is_none()), (count, whole), "{json:?}");
        }
    }
}
