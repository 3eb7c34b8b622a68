//! What CRI-O calls the points at which the making of a pod or container may be, for those who watch
//! its metric `resources_stalled_at_stage`.

use crate::operations::{create_container, run_pod};

/// The name of a stage of an operation that makes something; `None` for all others. What CRI-O has no
/// name for has ours.
pub(crate) fn of(kind: &str, stage: &str) -> Option<String> {
    let (what, name) = match kind {
        run_pod::OPERATION => {
            let name = match stage {
                "queued" => "creating",
                "record" => "storage creation",
                "namespaces" => "namespace creation",
                "network" => "network creation",
                "infra" => "container runtime creation",
                other => other,
            };
            ("sandbox", name)
        }
        create_container::OPERATION => {
            let name = match stage {
                "queued" => "creating",
                "layer" => "storage creation",
                "mount" => "storage start",
                "bundle" => "spec configuration",
                "runtime" => "runtime creation",
                other => other,
            };
            ("container", name)
        }
        _ => return None,
    };
    Some(format!("{what} {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_that_the_table_names_are_those_of_the_plans() {
        let pods = run_pod::PLAN.iter().map(|stage| stage.name);
        let pods: Vec<_> = pods.collect();
        for name in ["record", "namespaces", "network", "infra"] {
            assert!(pods.contains(&name), "{name}");
        }
        let containers = create_container::PLAN.iter().map(|stage| stage.name);
        let containers: Vec<_> = containers.collect();
        for name in ["layer", "mount", "bundle", "runtime"] {
            assert!(containers.contains(&name), "{name}");
        }
        let network = of(run_pod::OPERATION, "network");
        assert_eq!(network.as_deref(), Some("sandbox network creation"));
        let record = of(create_container::OPERATION, "record");
        assert_eq!(record.as_deref(), Some("container record"));
        assert_eq!(of("stop-container", "x"), None);
    }
}
