//! Flags and environment variables, made from the rows.

use std::ffi::OsString;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches};

use crate::file::{Origin, Setting};
use crate::row::{Kind, Row};
use crate::{Error, Value, rows};

/// The flag of every option that has one, for a [`clap::Command`]. A boolean flag may stand alone
/// or take `=true` and `=false`; a list takes commas and may be repeated.
pub fn flags() -> impl Iterator<Item = Arg> {
    with_flag().map(|row| {
        let arg = Arg::new(row.flag)
            .long(row.flag)
            .help(row.help)
            .value_name(value_name(row.kind));
        match row.kind {
            Kind::Bool => arg
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true"),
            Kind::List => arg.action(ArgAction::Append),
            _ => arg,
        }
    })
}

fn with_flag() -> impl Iterator<Item = &'static Row> {
    rows::all().filter(|row| !row.flag.is_empty() && row.kind != Kind::Table)
}

fn value_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Bool => "true|false",
        Kind::Integer => "N",
        Kind::List => "A,B",
        Kind::Duration => "DURATION",
        Kind::Text | Kind::Map | Kind::Table => "TEXT",
    }
}

/// What `matches` and the environment set; flags come last because they win.
///
/// # Errors
/// [`Error::Type`] where a text is not of its option's type.
pub fn given(
    matches: &ArgMatches,
    environment: impl Fn(&str) -> Option<OsString>,
) -> Result<Given, Error> {
    let mut settings = Vec::new();
    for row in with_flag().filter(|row| !row.env.is_empty()) {
        if let Some(text) = environment(row.env) {
            settings.push(setting(
                row,
                &text.to_string_lossy(),
                Origin::Environment(row.env),
            )?);
        }
    }
    for row in with_flag() {
        if matches.value_source(row.flag) != Some(ValueSource::CommandLine) {
            continue;
        }
        let texts: Vec<_> = matches
            .get_many::<String>(row.flag)
            .into_iter()
            .flatten()
            .cloned()
            .collect();
        settings.push(setting(row, &texts.join(","), Origin::Flag(row.flag))?);
    }
    Ok(Given(settings))
}

/// What flags and environment set.
#[derive(Debug, Default)]
pub struct Given(pub(crate) Vec<Setting>);

fn setting(row: &'static Row, text: &str, origin: Origin) -> Result<Setting, Error> {
    match Value::from_text(row.kind, text) {
        Some(value) => Ok(Setting {
            row,
            name: String::new(),
            value,
            origin,
        }),
        None => Err(Error::Type {
            key: format!("{}.{}", row.table, row.key),
            wanted: row.kind.name(),
            at: origin,
        }),
    }
}
