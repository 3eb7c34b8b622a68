//! The options of `[crio.runtime]` as CRI-O's verbose Status shows them: by the names of the fields of its
//! structures, which scripts on nodes read.

use serde_json::{Map, Value as Json, json};

use super::Settings;
use crate::rows;
use crate::value::Value;

const RUNTIME: &str = "crio.runtime";
const HANDLERS: &str = "crio.runtime.runtimes.<name>";

/// Fields whose name is not made of their key's words.
const IRREGULAR: [(&str, &str); 8] = [
    ("cgroup_manager", "CgroupManagerName"),
    ("disable_hostport_mapping", "DisableHostPortMapping"),
    ("hostnetwork_disable_selinux", "HostNetworkDisableSELinux"),
    ("infra_ctr_cpuset", "InfraCtrCPUSet"),
    ("irqbalance_config_file", "IrqBalanceConfigFile"),
    (
        "irqbalance_config_restore_file",
        "IrqBalanceConfigRestoreFile",
    ),
    ("min_injected_gomaxprocs", "MinInjectedGOMAXPROCS"),
    ("shared_cpuset", "SharedCPUSet"),
];
/// Words that are not just capitalized.
const WORDS: [(&str, &str); 6] = [
    ("blockio", "BlockIO"),
    ("cdi", "CDI"),
    ("cpu", "CPU"),
    ("gid", "GID"),
    ("selinux", "SELinux"),
    ("uid", "UID"),
];

impl Settings {
    /// The options of the runtime table, and under `Runtimes` those of each handler.
    #[must_use]
    pub fn runtime_fields(&self) -> Json {
        // But for those that are read and have no value of their own any more.
        let runtime = self
            .values
            .iter()
            .filter(|((table, ..), _)| *table == RUNTIME);
        let mut fields: Map<_, _> = runtime
            .map(|((_, key, _), (value, _))| (field(key), shown(value)))
            .collect();
        let handlers = self.handlers().map(|handler| {
            let of_handler = rows::all().filter(|row| row.table == HANDLERS);
            let fields: Map<_, _> = of_handler
                .map(|row| (field(row.key), shown(&handler.value(row.key))))
                .collect();
            (handler.name.to_owned(), Json::Object(fields))
        });
        fields.insert("Runtimes".to_owned(), Json::Object(handlers.collect()));
        Json::Object(fields)
    }
}

/// The name of an option's field.
fn field(key: &str) -> String {
    let named = |names: &[(&str, &'static str)], key: &str| {
        let found = names.iter().find(|(known, _)| *known == key);
        found.map(|(_, name)| (*name).to_owned())
    };
    named(&IRREGULAR, key).unwrap_or_else(|| {
        let words = key.split('_').map(|word| {
            named(&WORDS, word).unwrap_or_else(|| {
                let mut letters = word.chars();
                let first = letters.next().map(|letter| letter.to_ascii_uppercase());
                first.into_iter().chain(letters).collect()
            })
        });
        words.collect()
    })
}

fn shown(value: &Value) -> Json {
    match value {
        Value::Text(text) => json!(text),
        Value::Bool(on) => json!(on),
        Value::Integer(number) => json!(number),
        Value::List(list) => json!(list),
        Value::Duration(time) => json!(time.as_nanos()),
        Value::Map(map) => json!(map),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Sources;

    #[test]
    fn fields_have_the_names_that_cri_o_gives_them() {
        for (key, name) in [
            ("pids_limit", "PidsLimit"),
            ("uid_mappings", "UIDMappings"),
            ("cdi_spec_dirs", "CDISpecDirs"),
            ("selinux", "SELinux"),
            ("exec_cpu_affinity", "ExecCPUAffinity"),
            ("blockio_reload", "BlockIOReload"),
            ("enable_criu_support", "EnableCriuSupport"),
            ("infra_ctr_cpuset", "InfraCtrCPUSet"),
            ("container_min_memory", "ContainerMinMemory"),
        ] {
            assert_eq!(field(key), name);
        }
        let shown = Settings::load(Sources::default()).unwrap().runtime_fields();
        assert_eq!(shown["CtrStopTimeout"], 30);
        assert_eq!(shown["Runtimes"]["crun"]["RuntimeType"], "oci");
        assert_eq!(shown["HooksDir"][0], "/usr/share/containers/oci/hooks.d");
    }
}
