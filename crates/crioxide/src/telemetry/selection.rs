//! Which metrics are told: `metrics_collectors`.

use std::collections::BTreeSet;

/// What all of CRI-O's metrics begin with.
pub(super) const PREFIX: &str = "container_runtime_crio_";
/// CRI-O's collectors. Some tell of what is not counted here: they are accepted, and tell nothing.
const COLLECTORS: [&str; 18] = [
    "image_pulls_layer_size",
    "containers_events_dropped_total",
    "containers_oom_total",
    "processes_defunct",
    "operations_total",
    "operations_latency_seconds",
    "operations_latency_seconds_total",
    "operations_errors_total",
    "image_pulls_bytes_total",
    "image_pulls_skipped_bytes_total",
    "image_pulls_failure_total",
    "image_pulls_success_total",
    "image_layer_reuse_total",
    "containers_oom_count_total",
    "containers_seccomp_notifier_count_total",
    "resources_stalled_at_stage",
    "containers_stopped_monitor_count",
    "default_runtime",
];

/// The collectors that are on; all of them where none is named.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Selection(BTreeSet<&'static str>);

impl Selection {
    /// Reads names, with or without `container_runtime_` and `crio_` before them.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(super) fn parse(names: &[String]) -> Result<Self, String> {
        let collector = |given: &String| {
            let name = given.strip_prefix("container_runtime_").unwrap_or(given);
            let name = name.strip_prefix("crio_").unwrap_or(name);
            let known = COLLECTORS.iter().find(|known| **known == name);
            known
                .copied()
                .ok_or_else(|| format!("{given:?} is no collector"))
        };
        names
            .iter()
            .map(collector)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// The metric's name if the collector is on.
    pub(super) fn name(&self, collector: &str) -> Option<String> {
        let on = self.0.is_empty() || self.0.contains(collector);
        on.then(|| format!("{PREFIX}{collector}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collectors_have_three_forms_of_names() {
        for name in [
            "operations_total",
            "crio_operations_total",
            "container_runtime_crio_operations_total",
        ] {
            let selection = Selection::parse(&[name.to_owned()]).unwrap();
            assert!(selection.name("operations_total").is_some(), "{name}");
            assert!(selection.name("processes_defunct").is_none());
        }
        assert!(Selection::parse(&["operations".to_owned()]).is_err());
        let all = Selection::parse(&[]).unwrap();
        assert_eq!(
            all.name("default_runtime").as_deref(),
            Some("container_runtime_crio_default_runtime")
        );
    }
}
