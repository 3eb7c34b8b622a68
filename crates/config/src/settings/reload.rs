//! What another reading of the sources changes in a daemon that runs.

use std::collections::BTreeSet;

use super::{Settings, full_name};
use crate::row::Reload;
use crate::rows;

/// An option that has another value than when the files were read before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its key, with the table where that is a handler's or a workload's.
    pub option: String,
    /// Its value now, as TOML; `None` where nobody sets it any more.
    pub value: Option<String>,
    /// Whether the daemon goes on with it; else it counts from the next start on.
    pub reloads: bool,
}

impl Settings {
    /// These settings after `new` was read from the same sources: options that SIGHUP reloads are the
    /// new ones, all others stay as they are. Flags and environment go before files here too.
    #[must_use]
    pub fn reloaded(&self, new: Self) -> (Self, Vec<Change>) {
        let mut merged = self.clone();
        let mut changes = Vec::new();
        let keys: BTreeSet<_> = self.values.keys().chain(new.values.keys()).collect();
        for key in keys {
            let (table, option, name) = key;
            let value = new.values.get(key);
            let same = |(old, _): &(_, _)| value.is_some_and(|(new, _)| new == old);
            let reload = rows::find(table, option).map(|row| row.reload);
            let reloads = reload == Some(Reload::Sighup);
            if reloads {
                match value {
                    Some(value) => drop(merged.values.insert(key.clone(), value.clone())),
                    None => drop(merged.values.remove(key)),
                }
            }
            if !self.values.get(key).is_some_and(same) {
                changes.push(Change {
                    option: if name.is_empty() {
                        (*option).to_owned()
                    } else {
                        full_name(table, option, name)
                    },
                    value: value.map(|(value, _)| value.to_toml()),
                    reloads,
                });
            }
        }
        // The tables of handlers are reloaded as a whole.
        merged.handlers = new.handlers;
        merged.unknown = new.unknown;
        (merged, changes)
    }
}
