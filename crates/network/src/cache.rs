//! libcni's result cache: one file per attachment, by which a DEL knows what its ADD was.
//!
//! File `<directory>/results/<network>-<container id>-<interface>`, JSON of kind `cniCacheV1`.
//! An entry is written before an ADD, with a result that holds only its `cniVersion`, and again
//! after it. No file is synced: what outlives a reboot is detached then in any case, and of a
//! torn entry the name is enough for that.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::config::NetworkConfig;
use crate::error::{Error, Result};
use crate::limits;
use crate::plugin::Target;
use crate::pod::{is_container_id, is_interface_name};
use crate::result::CniResult;
use crate::version::Version;

const KIND: &str = "cniCacheV1";

/// The directory of entries.
#[derive(Debug)]
pub(crate) struct Cache {
    directory: PathBuf,
}

/// One attachment.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) network: String,
    pub(crate) target: Target,
    /// The configuration; `None` of a torn entry.
    pub(crate) config: Option<NetworkConfig>,
    /// The result; `None` where the ADD did not end, or of a torn entry.
    pub(crate) result: Option<CniResult>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    kind: String,
    container_id: String,
    config: String,
    if_name: String,
    network_name: String,
    #[serde(rename = "netns", skip_serializing_if = "Option::is_none")]
    netns: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cni_args: Option<Vec<(String, String)>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    capability_args: Option<Map<String, Value>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    result: Option<Map<String, Value>>,
}

impl Cache {
    pub(crate) fn new(cache_dir: &Path) -> Self {
        Self {
            directory: cache_dir.join("results"),
        }
    }

    /// Writes the entry of an attachment: `None` before its ADD, its result after it.
    pub(crate) fn write(
        &self,
        network: &NetworkConfig,
        target: &Target,
        result: Option<&CniResult>,
    ) -> Result<()> {
        let nothing = CniResult::empty(network.version);
        let file = File {
            kind: KIND.to_owned(),
            container_id: target.container_id.clone(),
            config: BASE64.encode(&network.bytes),
            if_name: target.interface.clone(),
            network_name: network.name.clone(),
            netns: target.netns.clone(),
            cni_args: Some(target.args.clone()).filter(|args| !args.is_empty()),
            capability_args: Some(target.capability_args.clone()).filter(|args| !args.is_empty()),
            result: Some(result.unwrap_or(&nothing).object().clone()),
        };
        let name = file_name(&network.name, &target.container_id, &target.interface);
        let path = self.directory.join(&name);
        let bytes = serde_json::to_vec(&file).expect("a cache entry serialises");
        self.replace(&path, &bytes)
            .map_err(|error| Error::io("write CNI cache entry", path, error))
    }

    fn replace(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        match sys::durable::replace_volatile(path, bytes, 0o600) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(&self.directory)?;
                sys::durable::replace_volatile(path, bytes, 0o600)
            }
            done => done,
        }
    }

    /// Removes an entry; absent is fine.
    pub(crate) fn remove(&self, network: &str, target: &Target) -> Result<()> {
        self.remove_file(&file_name(network, &target.container_id, &target.interface))
    }

    /// Removes the entry that CRI-O keeps of a pod's `lo`, which no plugin of ours made.
    pub(crate) fn remove_loopback(&self, pod: &str) -> Result<()> {
        self.remove_file(&file_name("cni-loopback", pod, "lo"))
    }

    fn remove_file(&self, name: &str) -> Result<()> {
        let path = self.directory.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::io("remove CNI cache entry", path, error))
            }
            _ => Ok(()),
        }
    }

    /// Removes what a daemon that was killed has left of entries that it was writing.
    pub(crate) fn sweep(&self) -> Result<()> {
        sys::durable::sweep(&self.directory)
            .map_err(|error| Error::io("sweep CNI cache", &self.directory, error))
    }

    /// The entries of one pod, loopback excepted.
    pub(crate) fn of_pod(&self, pod: &str) -> Result<Vec<Entry>> {
        let wanted = format!("-{pod}-");
        let names = self.names()?;
        Ok(names
            .iter()
            .filter(|name| name.contains(&wanted))
            .filter_map(|name| self.read(name))
            .filter(|entry| entry.target.container_id == pod)
            .collect())
    }

    /// All entries, loopback excepted.
    pub(crate) fn all(&self) -> Result<Vec<Entry>> {
        Ok(self
            .names()?
            .iter()
            .filter_map(|name| self.read(name))
            .collect())
    }

    fn names(&self) -> Result<Vec<String>> {
        let fail = |error| Error::io("read CNI cache", &self.directory, error);
        let entries = match fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(fail(error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(fail)?.file_name();
            if let Some(name) = name.to_str()
                && !name.starts_with('.')
                && !name.ends_with("-lo")
            {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    /// `None` where the name is no attachment's, or the file went meanwhile.
    fn read(&self, name: &str) -> Option<Entry> {
        let mut bytes = Vec::new();
        let file = fs::File::open(self.directory.join(name)).ok()?;
        let torn = || Entry::from_name(name);
        if file
            .take(limits::CACHE_BYTES as u64)
            .read_to_end(&mut bytes)
            .is_err()
        {
            return torn();
        }
        match serde_json::from_slice::<File>(&bytes) {
            Ok(file) => Entry::from_file(name, file).or_else(torn),
            Err(_) => torn(),
        }
    }
}

impl Entry {
    fn from_file(name: &str, file: File) -> Option<Self> {
        if file.kind != KIND
            || name != file_name(&file.network_name, &file.container_id, &file.if_name)
        {
            return None;
        }
        let config = BASE64.decode(&file.config).ok()?;
        // No directory: what was added from one is in the cached list itself.
        let config = NetworkConfig::parse(&config, None).ok()?;
        let version = config.version;
        let result = file
            .result
            .and_then(|object| CniResult::from_object(object, version).ok());
        Some(Self {
            network: file.network_name,
            target: Target {
                container_id: file.container_id,
                netns: file.netns,
                interface: file.if_name,
                args: file.cni_args.unwrap_or_default(),
                capability_args: file.capability_args.unwrap_or_default(),
            },
            config: Some(config),
            result: result.filter(|result| !result.is_empty()),
        })
    }

    /// What the name of a torn entry tells: ids have no `-`, network names may.
    fn from_name(name: &str) -> Option<Self> {
        let (rest, interface) = name.rsplit_once('-')?;
        let (network, container_id) = rest.rsplit_once('-')?;
        if network.is_empty() || !is_container_id(container_id) || !is_interface_name(interface) {
            return None;
        }
        let target = Target {
            container_id: container_id.to_owned(),
            interface: interface.to_owned(),
            ..Target::default()
        };
        Some(Self {
            network: network.to_owned(),
            target,
            config: None,
            result: None,
        })
    }

    /// Whether a CRI runtime made it, by the arguments that these pass.
    pub(crate) fn is_of_a_pod(&self) -> bool {
        self.config.is_none()
            || self.target.args.iter().any(|(key, value)| {
                key == "K8S_POD_INFRA_CONTAINER_ID" && *value == self.target.container_id
            })
    }

    /// The result that DEL is given, where the version has that.
    pub(crate) fn prev_result(&self, network: &NetworkConfig) -> Option<Value> {
        if network.version < Version::PREV_RESULT_ON_DEL {
            return None;
        }
        let result = self.result.as_ref()?.converted(network.version);
        Some(Value::Object(result.object().clone()))
    }
}

fn file_name(network: &str, container_id: &str, interface: &str) -> String {
    format!("{network}-{container_id}-{interface}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn network() -> NetworkConfig {
        let list =
            json!({"name": "my-net", "cniVersion": "1.0.0", "plugins": [{"type": "bridge"}]});
        NetworkConfig::parse(list.to_string().as_bytes(), None).unwrap()
    }

    fn target() -> Target {
        Target {
            container_id: "0a1b2c".into(),
            netns: Some("/run/netns/x".into()),
            interface: "eth0".into(),
            args: vec![("K8S_POD_INFRA_CONTAINER_ID".into(), "0a1b2c".into())],
            capability_args: Map::new(),
        }
    }

    #[test]
    fn an_entry_has_libcnis_name_and_words() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::new(directory.path());
        let result = json!({"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.2/24"}]});
        let result = CniResult::parse(result.to_string().as_bytes(), Version::OLDEST).unwrap();
        cache.write(&network(), &target(), Some(&result)).unwrap();
        let path = directory.path().join("results/my-net-0a1b2c-eth0");
        let file: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        let config = BASE64.decode(file["config"].as_str().unwrap()).unwrap();
        assert_eq!(
            serde_json::from_slice::<Value>(&config).unwrap()["name"],
            "my-net"
        );
        let mut file = file;
        file["config"] = json!("");
        assert_eq!(
            file,
            json!({"kind": "cniCacheV1", "containerId": "0a1b2c", "config": "", "ifName": "eth0",
                "networkName": "my-net", "netns": "/run/netns/x",
                "cniArgs": [["K8S_POD_INFRA_CONTAINER_ID", "0a1b2c"]],
                "result": {"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.2/24"}]}})
        );
        let read = cache.of_pod("0a1b2c").unwrap().remove(0);
        assert_eq!(read.result.as_ref(), Some(&result));
        assert!(read.is_of_a_pod() && read.prev_result(&network()).is_some());
        cache.remove("my-net", &target()).unwrap();
        cache.remove("my-net", &target()).unwrap();
        assert!(cache.all().unwrap().is_empty());
    }

    #[test]
    fn an_add_that_did_not_end_has_no_result() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::new(directory.path());
        cache.write(&network(), &target(), None).unwrap();
        assert!(cache.all().unwrap().remove(0).result.is_none());
    }

    #[test]
    fn a_torn_entry_is_known_by_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::new(directory.path());
        cache.write(&network(), &target(), None).unwrap();
        fs::write(directory.path().join("results/my-net-0a1b2c-eth0"), "").unwrap();
        fs::write(directory.path().join("results/cni-loopback-0a1b2c-lo"), "").unwrap();
        let entries = cache.of_pod("0a1b2c").unwrap();
        assert_eq!(entries.len(), 1);
        assert_eq!(
            (entries[0].network.as_str(), entries[0].config.is_none()),
            ("my-net", true)
        );
    }
}
