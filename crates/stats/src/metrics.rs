//! The metrics of pods and containers that the CRI hands on: which there are, and their values.
//!
//! Names and labels are cAdvisor's, as CRI-O tells them, so that dashboards go on working. They
//! come in groups, which the configuration picks. The CRI's values are whole numbers: seconds are
//! cut, as CRI-O cuts them.

mod rows;
mod values;

use std::collections::BTreeSet;

pub use rows::ROWS;
pub use values::{Container, FileSystem, Limits, Metric, container, network};

/// Labels that every metric has, in their order; a row's own come after them.
pub const LABELS: [&str; 6] = ["id", "name", "image", "namespace", "pod", "container"];

/// One metric.
#[derive(Debug, PartialEq, Eq)]
pub struct Row {
    /// Its name.
    pub name: &'static str,
    /// What it tells.
    pub help: &'static str,
    /// The group that it comes with; none: it is always there.
    pub group: Option<Group>,
    /// What kind of number it is.
    pub kind: Kind,
    /// Labels beside [`LABELS`].
    pub labels: &'static [&'static str],
}

/// What kind of number a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// Metrics that are switched on together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// Processor time.
    Cpu,
    /// The file system of the writable layer.
    Disk,
    /// Input and output.
    DiskIo,
    /// Huge pages.
    Hugetlb,
    /// Memory.
    Memory,
    /// Interfaces of the pod.
    Network,
    /// Processes killed for memory.
    Oom,
    /// Processes and their descriptors.
    Process,
    /// Limits.
    Spec,
    /// Stalls.
    Pressure,
}

/// Every group, with its name in the configuration.
const GROUPS: [(&str, Group); 10] = [
    ("cpu", Group::Cpu),
    ("disk", Group::Disk),
    ("diskIO", Group::DiskIo),
    ("hugetlb", Group::Hugetlb),
    ("memory", Group::Memory),
    ("network", Group::Network),
    ("oom", Group::Oom),
    ("process", Group::Process),
    ("spec", Group::Spec),
    ("pressure", Group::Pressure),
];

/// The groups that are switched on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection(BTreeSet<Group>);

impl Selection {
    /// Reads the names of groups; `all`, alone, is all of them.
    ///
    /// # Errors
    /// What is wrong with the names.
    pub fn parse(names: &[String]) -> Result<Self, String> {
        if names.iter().any(|name| name == "all") {
            return match names.len() {
                1 => Ok(Self(GROUPS.iter().map(|(_, group)| *group).collect())),
                _ => Err("\"all\" must stand alone".to_owned()),
            };
        }
        let group = |name: &String| {
            let known = GROUPS.iter().find(|(known, _)| known == name);
            known
                .map(|(_, group)| *group)
                .ok_or_else(|| format!("{name:?} is no group of metrics"))
        };
        names.iter().map(group).collect::<Result<_, _>>().map(Self)
    }

    /// Whether a group is on.
    #[must_use]
    pub fn has(&self, group: Group) -> bool {
        self.0.contains(&group)
    }

    /// The metrics that are on.
    pub fn rows(&self) -> impl Iterator<Item = &'static Row> {
        ROWS.iter()
            .copied()
            .filter(|row| row.group.is_none_or(|group| self.has(group)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_picked_by_name() {
        let parse = |names: &[&str]| {
            Selection::parse(&names.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(parse(&["all"]).unwrap().rows().count(), ROWS.len());
        assert_eq!(parse(&[]).unwrap().rows().count(), 1);
        let network = parse(&["network"]).unwrap();
        assert_eq!(network.rows().count(), 9);
        for wrong in [&["all", "cpu"][..], &["diskio"], &[""]] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn names_are_unique_and_labels_too() {
        let names: BTreeSet<_> = ROWS.iter().map(|row| row.name).collect();
        assert_eq!(names.len(), ROWS.len());
        for row in ROWS {
            let labels: BTreeSet<_> = LABELS.iter().chain(row.labels).collect();
            assert_eq!(
                labels.len(),
                LABELS.len() + row.labels.len(),
                "{}",
                row.name
            );
        }
    }
}
