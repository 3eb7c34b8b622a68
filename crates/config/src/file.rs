//! One configuration file: its options, checked against the rows, and what was wrong with it.

use std::path::{Path, PathBuf};
use std::{fmt, fs};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::row::{Kind, Row};
use crate::rows::{self, HANDLERS, WORKLOADS};
use crate::{Error, Value};

/// Where an option was set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// In a file, at a line counted from 1.
    File(PathBuf, usize),
    /// By an environment variable.
    Environment(&'static str),
    /// By a command line flag.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::Flag(name) => write!(f, "flag --{name}"),
        }
    }
}

/// One option as somebody set it.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    pub(crate) row: &'static Row,
    /// Name of the handler or workload; empty for other tables.
    pub(crate) name: String,
    pub(crate) value: Value,
    pub(crate) origin: Origin,
}

/// What a file says.
#[derive(Debug, Default)]
pub(crate) struct File {
    pub(crate) settings: Vec<Setting>,
    /// Handlers named, also those without a single option.
    pub(crate) handlers: Vec<String>,
    /// Keys that no row knows: path of the key and where it stands.
    pub(crate) unknown: Vec<(String, Origin)>,
}

impl File {
    /// Reads the file at `path`.
    pub(crate) fn read(path: &Path) -> Result<Self, Error> {
        let text = fs::read_to_string(path).map_err(|source| Error::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(path, &text)
    }

    pub(crate) fn parse(path: &Path, text: &str) -> Result<Self, Error> {
        let document = DeTable::parse(text).map_err(|wrong| Error::Syntax {
            at: Origin::File(
                path.to_owned(),
                line(text, wrong.span().map_or(0, |span| span.start)),
            ),
            message: wrong.message().to_owned(),
        })?;
        let mut reader = Reader {
            path,
            text,
            file: Self::default(),
        };
        for (key, value) in document.get_ref() {
            reader.entry("", "", key.get_ref(), value, key.span().start)?;
        }
        Ok(reader.file)
    }
}

struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
    file: File,
}

impl Reader<'_> {
    fn at(&self, offset: usize) -> Origin {
        Origin::File(self.path.to_owned(), line(self.text, offset))
    }

    /// Takes `key = value` in `table`; `name` is the handler or workload that the table belongs to.
    fn entry(
        &mut self,
        table: &str,
        name: &str,
        key: &str,
        value: &Spanned<DeValue<'_>>,
        offset: usize,
    ) -> Result<(), Error> {
        let path = if table.is_empty() {
            key.to_owned()
        } else {
            format!("{table}.{key}")
        };
        let row = rows::find(table, key);
        if let Some(row) = row.filter(|row| row.kind != Kind::Table) {
            let origin = self.at(offset);
            let Some(value) = Value::from_toml(row.kind, value.get_ref()) else {
                return Err(Error::Type {
                    key: path,
                    wanted: row.kind.name(),
                    at: origin,
                });
            };
            self.file.settings.push(Setting {
                row,
                name: name.to_owned(),
                value,
                origin,
            });
            return Ok(());
        }
        match (value.get_ref(), row) {
            (DeValue::Table(entries), Some(_)) => self.named(&path, entries),
            (DeValue::Table(entries), None) if rows::is_table(&path) => {
                entries.iter().try_for_each(|(key, value)| {
                    self.entry(&path, name, key.get_ref(), value, key.span().start)
                })
            }
            (_, Some(row)) => Err(Error::Type {
                key: path,
                wanted: row.kind.name(),
                at: self.at(offset),
            }),
            _ => {
                let origin = self.at(offset);
                self.file
                    .unknown
                    .push((path.replace("<name>", name), origin));
                Ok(())
            }
        }
    }

    /// Takes a table of tables: `[crio.runtime.runtimes.crun]` and the like.
    fn named(&mut self, path: &str, entries: &DeTable<'_>) -> Result<(), Error> {
        let table = if path == "crio.runtime.runtimes" {
            HANDLERS
        } else {
            WORKLOADS
        };
        for (name, value) in entries {
            let DeValue::Table(options) = value.get_ref() else {
                return Err(Error::Type {
                    key: format!("{path}.{}", name.get_ref()),
                    wanted: Kind::Table.name(),
                    at: self.at(name.span().start),
                });
            };
            if table == HANDLERS {
                self.file.handlers.push(name.get_ref().to_string());
            }
            for (key, value) in options {
                self.entry(
                    table,
                    name.get_ref(),
                    key.get_ref(),
                    value,
                    key.span().start,
                )?;
            }
        }
        Ok(())
    }
}

/// The line of `text`, counted from 1, that holds byte `offset`.
pub(crate) fn line(text: &str, offset: usize) -> usize {
    text.bytes()
        .take(offset)
        .filter(|byte| *byte == b'\n')
        .count()
        + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<File, Error> {
        File::parse(Path::new("crio.conf"), text)
    }

    #[test]
    fn a_wrong_type_names_key_file_and_line() {
        let text = "[crio.runtime]\nlog_level = \"debug\"\npids_limit = \"many\"\n";
        let error = parse(text).unwrap_err().to_string();
        assert_eq!(
            error,
            "unable to decode configuration: crio.conf:3: crio.runtime.pids_limit wants an integer"
        );
    }

    #[test]
    fn an_unknown_key_is_kept_aside_with_its_line() {
        let file = parse("[crio.runtime]\n\nno_such = 1\n[crio.runtime.runtimes.runc]\nbad = 2\n")
            .unwrap();
        let unknown: Vec<_> = file
            .unknown
            .iter()
            .map(|(key, at)| format!("{at} {key}"))
            .collect();
        assert_eq!(
            unknown,
            [
                "crio.conf:3 crio.runtime.no_such",
                "crio.conf:5 crio.runtime.runtimes.runc.bad"
            ]
        );
        assert_eq!(file.handlers, ["runc"]);
    }

    #[test]
    fn broken_toml_names_the_line() {
        let error = parse("[crio]\nroot = \n").unwrap_err().to_string();
        assert!(
            error.starts_with("unable to decode configuration: crio.conf:2: "),
            "{error}"
        );
    }

    #[test]
    fn a_scalar_where_a_handler_stands_is_refused() {
        assert!(parse("[crio.runtime.runtimes]\nrunc = \"/usr/bin/runc\"\n").is_err());
        assert!(parse("[crio.runtime]\nruntimes = 1\n").is_err());
    }
}
