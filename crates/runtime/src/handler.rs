//! Handlers by name.

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Error, Features, Image};

/// A handler as it is configured. Pods' records keep it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Its name.
    pub name: String,
    /// The runtime's program; empty to look the name up in `PATH`.
    pub path: PathBuf,
    /// `runtime_type`; empty and `oci` are the same, `pod` is taken as that.
    pub kind: String,
    /// Directory of the runtime's state; empty for the runtime's default.
    pub root: PathBuf,
    /// Default seccomp profile; empty for the common one.
    pub seccomp_profile: PathBuf,
    /// How long creating a container may take.
    pub create_timeout: Duration,
    /// Smallest memory limit that a container starts with, in bytes.
    pub minimum_memory: i64,
    /// Annotations of pods that are passed on and acted on.
    pub allowed_annotations: Vec<String>,
    /// Privileged containers do not see the host's devices.
    pub privileged_without_host_devices: bool,
    /// Where the monitor's cgroup is made: empty or `pod`, or a path.
    pub monitor_cgroup: String,
    /// Whether commands in a container begin on the first of its processors.
    pub exec_on_first_cpu: bool,
    /// Whether `--no-pivot` is passed.
    pub no_pivot: bool,
    /// Whether systemd keeps the cgroups.
    pub systemd_cgroup: bool,
}

/// A handler that is there and can be used.
#[derive(Debug, Clone)]
pub struct Handler {
    /// How it is configured, with the program's resolved path.
    pub config: Config,
    /// What it can do.
    pub features: Features,
    /// Its program, ready to be run.
    pub image: Image,
}

impl Handler {
    /// A handler as a record keeps it, also if its program is not there now: calls fail as long as
    /// that is so. Asks the runtime. Blocks.
    #[must_use]
    pub fn recorded(config: Config) -> Self {
        let features = Features::ask(&config.path);
        Self::new(config, features)
    }

    /// A handler of which nothing but its name is known: every call of its runtime fails.
    #[must_use]
    pub fn unknown(name: &str) -> Self {
        let config = Config {
            name: name.to_owned(),
            path: name.into(),
            ..Config::default()
        };
        Self::new(config, Features::parse(b""))
    }

    fn new(config: Config, features: Features) -> Self {
        Self {
            image: Image::new(&config.path, features.copies_itself),
            config,
            features,
        }
    }

    /// Arguments that stand before the runtime's sub-command.
    #[must_use]
    pub fn global_arguments(&self) -> Vec<String> {
        let mut arguments = Vec::new();
        if !self.config.root.as_os_str().is_empty() {
            arguments.extend(["--root".to_owned(), self.config.root.display().to_string()]);
        }
        if self.config.systemd_cgroup {
            arguments.push("--systemd-cgroup".to_owned());
        }
        arguments
    }

    /// Arguments of `create` beside the common ones.
    #[must_use]
    pub fn create_arguments(&self) -> Vec<String> {
        if self.config.no_pivot {
            vec!["--no-pivot".to_owned()]
        } else {
            Vec::new()
        }
    }
}

/// All handlers that new pods can use; a reload puts others in their place.
#[derive(Debug)]
pub struct Handlers(RwLock<Arc<Set>>);

#[derive(Debug)]
struct Set {
    default: String,
    by_name: BTreeMap<String, Arc<Handler>>,
}

impl Handlers {
    /// Looks up and asks every configured runtime. Those that can't be used, other than the
    /// default one, are left out and told.
    ///
    /// # Errors
    /// The default handler is unknown or can't be used.
    pub fn find(configs: Vec<Config>, default: &str) -> Result<(Self, Vec<Error>), Error> {
        let known = configs.iter().map(|config| config.name.clone()).collect();
        let mut by_name = BTreeMap::new();
        let mut unusable = Vec::new();
        for config in configs {
            let name = config.name.clone();
            match usable(config) {
                Ok(handler) => drop(by_name.insert(name, Arc::new(handler))),
                Err(error) if name == default => return Err(error),
                Err(error) => unusable.push(error),
            }
        }
        if !by_name.contains_key(default) {
            return Err(Error::Unknown {
                name: default.to_owned(),
                known,
            });
        }
        let set = Set {
            default: default.to_owned(),
            by_name,
        };
        Ok((Self(RwLock::new(Arc::new(set))), unusable))
    }

    fn set(&self) -> Arc<Set> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The handler `name`; an empty name is the default one.
    ///
    /// # Errors
    /// [`Error::Unknown`].
    pub fn get(&self, name: &str) -> Result<Arc<Handler>, Error> {
        let set = self.set();
        let wanted = if name.is_empty() { &set.default } else { name };
        set.by_name
            .get(wanted)
            .cloned()
            .ok_or_else(|| Error::Unknown {
                name: name.to_owned(),
                known: set.by_name.keys().cloned().collect(),
            })
    }

    /// Every handler by name, the default one first under an empty name too.
    #[must_use]
    pub fn all(&self) -> Vec<(String, Arc<Handler>)> {
        let set = self.set();
        let default = set.by_name.get(&set.default);
        let default = default.map(|handler| (String::new(), Arc::clone(handler)));
        let named = set.by_name.iter();
        let named = named.map(|(name, handler)| (name.clone(), Arc::clone(handler)));
        default.into_iter().chain(named).collect()
    }

    /// Puts `new` in the place of these, and returns the names of those that are gone.
    pub fn replace(&self, new: Self) -> Vec<String> {
        let new = new.set();
        let mut old = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let gone = old.by_name.keys();
        let gone = gone.filter(|name| !new.by_name.contains_key(*name));
        let gone = gone.cloned().collect();
        *old = new;
        gone
    }
}

fn usable(mut config: Config) -> Result<Handler, Error> {
    if !matches!(config.kind.as_str(), "" | "oci" | "pod") {
        return Err(Error::Kind {
            name: config.name,
            kind: config.kind,
        });
    }
    let found = if config.path.as_os_str().is_empty() {
        in_path(&config.name)
    } else {
        is_program(&config.path)
    };
    let Some(path) = found else {
        let path = if config.path.as_os_str().is_empty() {
            PathBuf::from(&config.name)
        } else {
            config.path
        };
        return Err(Error::NoProgram {
            name: config.name,
            path,
        });
    };
    let features = Features::ask(&path);
    config.path = path;
    Ok(Handler::new(config, features))
}

fn in_path(name: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).find_map(|dir| is_program(&dir.join(name)))
}

fn is_program(path: &Path) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    let metadata = path.metadata().ok()?;
    (metadata.is_file() && metadata.permissions().mode() & 0o111 != 0).then(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(name: &str, path: &str) -> Config {
        Config {
            name: name.into(),
            path: path.into(),
            ..Config::default()
        }
    }

    #[test]
    fn a_reload_leaves_what_is_configured() {
        let find = |names: &[&str], default| {
            let configs = names.iter().map(|name| config(name, "/bin/true"));
            Handlers::find(configs.collect(), default).unwrap().0
        };
        let handlers = find(&["a", "b", "c"], "a");
        assert_eq!(handlers.replace(find(&["c", "d"], "d")), ["a", "b"]);
        let names: Vec<_> = handlers.all().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["", "c", "d"]);
        assert_eq!(handlers.get("").unwrap().config.name, "d");
        assert!(handlers.get("b").is_err());
    }

    #[test]
    fn an_unusable_handler_is_left_out_unless_it_is_the_default() {
        let configs = || {
            vec![
                config("good", "/bin/true"),
                config("bad", "/no/such"),
                Config {
                    kind: "vm".into(),
                    ..config("vm", "/bin/true")
                },
            ]
        };
        let (handlers, unusable) = Handlers::find(configs(), "good").unwrap();
        assert_eq!(unusable.len(), 2);
        assert_eq!(handlers.get("").unwrap().config.name, "good");
        assert!(matches!(handlers.get("bad"), Err(Error::Unknown { .. })));
        assert!(matches!(
            Handlers::find(configs(), "bad"),
            Err(Error::NoProgram { .. })
        ));
        assert!(matches!(
            Handlers::find(configs(), "none"),
            Err(Error::Unknown { .. })
        ));
    }
}
