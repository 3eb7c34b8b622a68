//! Network configurations: the files, which of them is the default network, and what they say.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::error::NotReady;
use crate::limits;
use crate::version::Version;

/// A network: an ordered chain of plugins.
#[derive(Clone, Debug)]
pub(crate) struct NetworkConfig {
    pub(crate) name: String,
    pub(crate) version: Version,
    pub(crate) plugins: Vec<PluginConfig>,
    pub(crate) disable_gc: bool,
    /// The whole list as JSON, with the plugins of its directory in it: what the cache keeps, so
    /// that a DEL runs the plugins that the ADD ran.
    pub(crate) bytes: Vec<u8>,
}

/// One plugin of a chain.
#[derive(Clone, Debug)]
pub(crate) struct PluginConfig {
    /// `type`: the plugin's file name. Never a path (CVE-2021-20206).
    pub(crate) kind: String,
    pub(crate) object: Map<String, Value>,
}

impl PluginConfig {
    /// Whether the configuration declares the capability.
    pub(crate) fn declares(&self, capability: &str) -> bool {
        self.object
            .get("capabilities")
            .and_then(|declared| declared.get(capability))
            .and_then(Value::as_bool)
            .unwrap_or(false)
    }

    fn parse(value: &Value) -> Result<Self, String> {
        let object = value.as_object().ok_or("a plugin is no JSON object")?;
        let kind = match object.get("type") {
            Some(Value::String(kind)) => kind.clone(),
            _ => return Err("a plugin has no type".to_owned()),
        };
        check_file_name(&kind)?;
        if let Some(ipam) = object.get("ipam").and_then(|ipam| ipam.get("type")) {
            // An empty one means no address management.
            match ipam.as_str() {
                Some("") => {}
                Some(kind) => check_file_name(kind)?,
                None => return Err("ipam type is no string".to_owned()),
            }
        }
        Ok(Self {
            kind,
            object: object.clone(),
        })
    }
}

impl NetworkConfig {
    /// Reads a list (`plugins`) or a single plugin's configuration (`type`). `inline_directory`
    /// is where further plugins of the network are: `<directory>/<network>/*.conf`.
    pub(crate) fn parse(bytes: &[u8], inline_directory: Option<&Path>) -> Result<Self, String> {
        let mut list: Map<String, Value> =
            serde_json::from_slice(bytes).map_err(|error| format!("not a JSON object: {error}"))?;
        if !list.contains_key("plugins") {
            if !list.contains_key("type") {
                return Err("neither plugins nor type".to_owned());
            }
            list = of_single(list);
        }
        let name = text(&list, "name")?;
        check_network_name(&name)?;
        let version = choose_version(&list)?;
        if let Some(directory) = inline_directory
            && !flag(&list, "loadOnlyInlinedPlugins")?
        {
            add_plugins_of(&directory.join(&name), &mut list)?;
        }
        let plugins = list
            .get("plugins")
            .and_then(Value::as_array)
            .ok_or("plugins is no list")?;
        if plugins.is_empty() || plugins.len() > limits::PLUGINS {
            return Err(format!("{} plugins", plugins.len()));
        }
        let plugins = plugins
            .iter()
            .map(PluginConfig::parse)
            .collect::<Result<Vec<_>, _>>()?;
        let disable_gc = flag(&list, "disableGC")?;
        let bytes = serde_json::to_vec(&list).map_err(|error| error.to_string())?;
        Ok(Self {
            name,
            version,
            plugins,
            disable_gc,
            bytes,
        })
    }
}

/// Chooses the default network of a directory: the first valid file by name, or the one with the
/// wanted name. A file that is not valid is passed over and named in the answer; a network whose
/// plugins are not there yet is not passed over, or pods would land in another one.
pub(crate) fn load(directory: &Path, wanted: &str) -> Result<NetworkConfig, NotReady> {
    let mut refused = Vec::new();
    let files = config_files(directory).map_err(|error| unreadable(directory, &error))?;
    for path in files {
        let config = read_bounded(&path)
            .map_err(|error| error.to_string())
            .and_then(|bytes| NetworkConfig::parse(&bytes, Some(directory)));
        match config {
            Ok(config) if wanted.is_empty() || config.name == wanted => return Ok(config),
            Ok(_) => {}
            Err(reason) => refused.push(format!("{}: {reason}", path.display())),
        }
    }
    let mut message = if wanted.is_empty() {
        format!("no CNI configuration file in {}", directory.display())
    } else {
        format!(
            "CNI network {wanted:?} not found in {}",
            directory.display()
        )
    };
    if !refused.is_empty() {
        message = format!("{message} ({})", refused.join("; "));
    }
    message.push_str(". Has your network provider started?");
    Err(NotReady::new(message))
}

fn unreadable(directory: &Path, error: &io::Error) -> NotReady {
    NotReady::new(format!(
        "CNI configuration directory {}: {error}. Has your network provider started?",
        directory.display()
    ))
}

/// What tells that a directory's files changed: cheaper than reading them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fingerprint(Vec<(PathBuf, u64, u64, i64, i64)>);

impl Fingerprint {
    /// Takes it from the directory and from the networks' own directories in it. A missing
    /// directory has one, too.
    pub(crate) fn of(directory: &Path) -> Self {
        let mut seen = Vec::new();
        let mut paths = vec![directory.to_owned()];
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        for path in entries.map(|entry| entry.path()).take(limits::CONFIG_FILES) {
            if path.is_dir() {
                paths.extend(config_files(&path).unwrap_or_default());
            }
            paths.push(path);
        }
        for path in paths {
            if let Ok(meta) = fs::metadata(&path) {
                seen.push((
                    path,
                    meta.ino(),
                    meta.size(),
                    meta.mtime(),
                    meta.mtime_nsec(),
                ));
            }
        }
        seen.sort();
        Self(seen)
    }
}

/// The configuration files of a directory, by name.
fn config_files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        if matches!(extension, Some("conf" | "conflist" | "json")) && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    files.truncate(limits::CONFIG_FILES);
    Ok(files)
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let limit = limits::CONFIG_BYTES as u64;
    fs::File::open(path)?
        .take(limit + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() > limits::CONFIG_BYTES {
        return Err(io::Error::other(format!("larger than {limit} bytes")));
    }
    Ok(bytes)
}

/// A list with one plugin, as libcni makes it of a `.conf` file.
fn of_single(plugin: Map<String, Value>) -> Map<String, Value> {
    let mut list = Map::new();
    for key in ["name", "cniVersion"] {
        if let Some(value) = plugin.get(key) {
            list.insert(key.to_owned(), value.clone());
        }
    }
    list.insert("loadOnlyInlinedPlugins".to_owned(), Value::Bool(true));
    list.insert("plugins".to_owned(), json!([plugin]));
    list
}

/// CNI 1.1 (libcni): plugins that other software adds to a network as files of their own.
fn add_plugins_of(directory: &Path, list: &mut Map<String, Value>) -> Result<(), String> {
    let files = match config_files(directory) {
        Ok(files) => files,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(()),
        Err(error) => return Err(format!("{}: {error}", directory.display())),
    };
    let conf = |path: &PathBuf| {
        path.extension()
            .is_some_and(|extension| extension == "conf")
    };
    let mut added = Vec::new();
    for path in files.into_iter().filter(conf) {
        let bytes = read_bounded(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let plugin: Value = serde_json::from_slice(&bytes)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        added.push(plugin);
    }
    if added.is_empty() {
        return Ok(());
    }
    let plugins = list.get_mut("plugins").and_then(Value::as_array_mut);
    plugins.ok_or("plugins is no list")?.extend(added);
    list.insert("loadOnlyInlinedPlugins".to_owned(), Value::Bool(true));
    Ok(())
}

/// The newest known one of `cniVersion` and `cniVersions`.
fn choose_version(list: &Map<String, Value>) -> Result<Version, String> {
    let single = match list.get("cniVersion") {
        None => "",
        Some(Value::String(text)) => text,
        Some(_) => return Err("cniVersion is no string".to_owned()),
    };
    let listed = list.get("cniVersions").and_then(Value::as_array);
    let newest = listed
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .filter_map(Version::parse)
        .max();
    match (Version::parse(single), newest) {
        (Some(single), Some(newest)) if !list.contains_key("cniVersion") || newest > single => {
            Ok(newest)
        }
        (Some(single), _) => Ok(single),
        (None, Some(newest)) => Ok(newest),
        (None, None) => Err(format!("unknown cniVersion {single:?}")),
    }
}

fn text(list: &Map<String, Value>, key: &str) -> Result<String, String> {
    match list.get(key) {
        Some(Value::String(text)) => Ok(text.clone()),
        _ => Err(format!("no {key}")),
    }
}

/// libcni takes these as strings, too.
fn flag(list: &Map<String, Value>, key: &str) -> Result<bool, String> {
    match list.get(key) {
        None => Ok(false),
        Some(Value::Bool(flag)) => Ok(*flag),
        Some(Value::String(text)) => text
            .to_ascii_lowercase()
            .parse()
            .map_err(|_| format!("{key} is no boolean")),
        Some(_) => Err(format!("{key} is no boolean")),
    }
}

/// CNI specification, "Configuration format": the name becomes part of file names.
fn check_network_name(name: &str) -> Result<(), String> {
    let good = name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.len() <= 128
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
    if good {
        Ok(())
    } else {
        Err(format!("bad network name {name:?}"))
    }
}

fn check_file_name(kind: &str) -> Result<(), String> {
    if kind.is_empty() || kind == "." || kind == ".." || kind.contains(['/', '\\', '\0']) {
        return Err(format!("bad plugin type {kind:?}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(value: &Value) -> Result<NetworkConfig, String> {
        NetworkConfig::parse(value.to_string().as_bytes(), None)
    }

    #[test]
    fn lists_and_single_configurations_are_read() {
        let list = parse(&json!({"name": "n", "cniVersion": "1.0.0",
            "plugins": [{"type": "bridge"}, {"type": "portmap", "capabilities": {"portMappings": true}}]}));
        let list = list.unwrap();
        assert_eq!((list.name.as_str(), list.plugins.len()), ("n", 2));
        assert!(list.plugins[1].declares("portMappings"));
        assert!(!list.plugins[0].declares("portMappings"));
        let single = parse(&json!({"name": "n", "type": "ptp"})).unwrap();
        assert_eq!(single.version, Version::OLDEST);
        assert_eq!(single.plugins[0].kind, "ptp");
    }

    #[test]
    fn bad_configurations_are_refused() {
        for (value, reason) in [
            (
                json!({"name": "n", "type": "../../tmp/evil"}),
                "bad plugin type",
            ),
            (json!({"name": "n", "type": ".."}), "bad plugin type"),
            (
                json!({"name": "n", "type": "x", "ipam": {"type": "a/b"}}),
                "bad plugin type",
            ),
            (json!({"name": "n", "plugins": []}), "0 plugins"),
            (json!({"name": "../n", "type": "x"}), "bad network name"),
            (json!({"type": "x"}), "no name"),
            (json!({"name": "n"}), "neither"),
            (
                json!({"name": "n", "type": "x", "cniVersion": "2.0.0"}),
                "unknown cniVersion",
            ),
            (json!([]), "not a JSON object"),
        ] {
            let error = parse(&value).unwrap_err();
            assert!(error.contains(reason), "{value}: {error}");
        }
    }

    #[test]
    fn the_newest_known_version_is_taken() {
        for (value, version) in [
            (
                json!({"cniVersion": "0.4.0", "cniVersions": ["0.4.0", "1.0.0", "9.0.0"]}),
                "1.0.0",
            ),
            (json!({"cniVersions": ["1.1.0"]}), "1.1.0"),
            (json!({}), "0.1.0"),
        ] {
            let chosen = choose_version(value.as_object().unwrap()).unwrap();
            assert_eq!(chosen.to_string(), version, "{value}");
        }
    }

    #[test]
    fn the_first_valid_file_by_name_is_the_default() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
        let before = Fingerprint::of(directory.path());
        assert!(
            load(directory.path(), "")
                .unwrap_err()
                .message
                .contains("no CNI configuration")
        );
        write("00-broken.conflist", "{");
        write("05-ignored.txt", "{\"name\":\"t\",\"type\":\"x\"}");
        write("20-b.conf", "{\"name\":\"b\",\"type\":\"x\"}");
        write("10-a.json", "{\"name\":\"a\",\"type\":\"x\"}");
        assert_ne!(Fingerprint::of(directory.path()), before);
        assert_eq!(load(directory.path(), "").unwrap().name, "a");
        assert_eq!(load(directory.path(), "b").unwrap().name, "b");
        let absent = load(directory.path(), "c").unwrap_err().message;
        assert!(
            absent.contains("\"c\" not found") && absent.contains("00-broken"),
            "{absent}"
        );
    }

    #[test]
    fn plugins_of_the_networks_directory_join_the_chain() {
        let directory = tempfile::tempdir().unwrap();
        let list = json!({"name": "n", "cniVersion": "1.1.0", "plugins": [{"type": "a"}]});
        fs::write(directory.path().join("n.conflist"), list.to_string()).unwrap();
        fs::create_dir(directory.path().join("n")).unwrap();
        fs::write(directory.path().join("n/10-b.conf"), "{\"type\":\"b\"}").unwrap();
        let config = load(directory.path(), "").unwrap();
        assert_eq!(config.plugins.len(), 2);
        let cached = NetworkConfig::parse(&config.bytes, Some(directory.path())).unwrap();
        assert_eq!(
            cached.plugins.len(),
            2,
            "the cached form is complete by itself"
        );
    }
}
