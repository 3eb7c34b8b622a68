//! The default network: attaching, detaching and collecting pods.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cache::{Cache, Entry};
use crate::config::{self, Fingerprint, NetworkConfig};
use crate::error::{Error, NotReady, Result};
use crate::plugin::{self, Command, Runner, Target};
use crate::pod::Pod;
use crate::result::CniResult;

/// The name of a pod's interface; the kubelet's cAdvisor expects it.
const INTERFACE: &str = "eth0";

/// Where things are, and which network is the default.
#[derive(Clone, Debug)]
pub struct Options {
    /// Directory of configuration files.
    pub conf_dir: PathBuf,
    /// Directories of plugins, first match wins.
    pub plugin_dirs: Vec<PathBuf>,
    /// Name of the default network; empty: that of the first valid file by name.
    pub default_network: String,
    /// Where results are cached: `/var/lib/cni` unless for a test.
    pub cache_dir: PathBuf,
    /// What the DEL after a failed ADD may take, whose own budget may be used up.
    pub cleanup_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            conf_dir: "/etc/cni/net.d".into(),
            plugin_dirs: vec![
                "/opt/cni/bin".into(),
                "/usr/libexec/cni".into(),
                "/usr/lib/cni".into(),
            ],
            default_network: String::new(),
            cache_dir: "/var/lib/cni".into(),
            cleanup_timeout: Duration::from_secs(60),
        }
    }
}

/// A pod's place in a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The pod's id.
    pub pod_id: String,
    /// The network's name.
    pub network: String,
    /// The interface in the pod.
    pub interface: String,
    /// The network namespace it was attached with.
    pub netns: Option<PathBuf>,
    /// The configuration that was used, as JSON; empty of a torn cache entry.
    pub config: String,
    /// The result as JSON of at least version 1.0.0; `None` where the ADD did not end.
    pub result: Option<String>,
    /// The pod's addresses, the primary one first.
    pub ips: Vec<IpAddr>,
}

/// What [`Network::gc`] did.
#[derive(Debug, Default)]
pub struct Collected {
    /// Ids of pods that were detached.
    pub removed: Vec<String>,
    /// What failed, by pod id or plugin; the cache entries stay for the next time.
    pub failed: Vec<(String, Error)>,
}

/// The node's pod network. Shared by reference; pods may be attached in parallel, one pod by one
/// caller at a time.
#[derive(Debug)]
pub struct Network {
    options: Options,
    cache: Cache,
    loaded: Mutex<Loaded>,
}

#[derive(Debug, Default)]
struct Loaded {
    seen: Option<Fingerprint>,
    config: Option<Result<Arc<NetworkConfig>, NotReady>>,
}

impl Network {
    /// Makes it; nothing is read yet.
    #[must_use]
    pub fn new(options: Options) -> Self {
        let cache = Cache::new(&options.cache_dir);
        Self {
            options,
            cache,
            loaded: Mutex::default(),
        }
    }

    /// Tells whether pods can be attached: there is a configuration, and its plugins exist. A few
    /// `stat` calls; the files are read again only if they changed.
    ///
    /// # Errors
    /// What is missing.
    pub fn status(&self) -> Result<(), NotReady> {
        self.ready_config().map(drop)
    }

    /// Like [`Network::status`], and asks the plugins of a CNI 1.1 network with STATUS.
    ///
    /// # Errors
    /// What is missing, or a plugin's answer.
    pub fn probe(&self, timeout: Duration) -> Result<(), NotReady> {
        let network = self.ready_config()?;
        if !plugin::knows_gc_and_status(&network) {
            return Ok(());
        }
        let runner = self.runner(timeout);
        for plugin in &network.plugins {
            runner
                .run(Command::Status, &network, plugin, &Target::default(), [])
                .map_err(|error| NotReady::new(error.to_string()))?;
        }
        Ok(())
    }

    /// Name of the default network, where there is one.
    #[must_use]
    pub fn name(&self) -> Option<String> {
        self.current().ok().map(|network| network.name.clone())
    }

    /// Attaches a pod to the default network: the plugins in order. `lo` is up already: whoever made
    /// the namespace did that. If it fails,
    /// the plugins are told to undo it; where that fails as well, the cache entry stays and
    /// [`Network::gc`] or [`Network::del`] tries again.
    ///
    /// # Errors
    /// [`Error::NotReady`]; [`Error::Plugin`] and its like with the plugin's words.
    pub fn add(&self, pod: &Pod, timeout: Duration) -> Result<Attachment> {
        pod.check()?;
        let netns = pod
            .netns
            .clone()
            .ok_or_else(|| Error::BadPod("no network namespace".into()))?;
        let runner = self.runner(timeout);
        let network = self.ready_config()?;
        let target = Target {
            container_id: pod.id.clone(),
            netns: Some(netns),
            interface: INTERFACE.to_owned(),
            args: pod.cni_args(),
            capability_args: pod.capability_args(),
        };
        self.cache.write(&network, &target, None)?;
        let added = fault("network.add.intent", &target)
            .and_then(|()| add_chain(runner, &network, &target))
            .and_then(|result| {
                fault("network.add.plugins", &target)?;
                self.cache.write(&network, &target, Some(&result))?;
                Ok(result)
            });
        let entry = |result| Entry {
            network: network.name.clone(),
            target: target.clone(),
            config: Some(NetworkConfig::clone(&network)),
            result,
        };
        match added {
            Ok(result) => Ok(Attachment::from(entry(Some(result)))),
            Err(error) => {
                let cleanup = self.runner(self.options.cleanup_timeout);
                if let Err(failed) = self.detach(cleanup, &entry(None), target.netns.as_deref()) {
                    tracing::warn!(pod = pod.id, network = network.name, error = %failed,
                        "undoing a failed CNI ADD failed; the cache entry stays");
                }
                Err(error)
            }
        }
    }

    /// Detaches a pod from every network it is in, by what the cache says of it. With nothing in
    /// the cache there is nothing to do. A cache entry goes only once its DEL has succeeded.
    ///
    /// # Errors
    /// The first failure; the rest was tried all the same.
    pub fn del(&self, pod: &Pod, timeout: Duration) -> Result<()> {
        pod.check()?;
        let runner = self.runner(timeout);
        let mut outcome = Ok(());
        for entry in self.cache.of_pod(&pod.id)? {
            let detached = self.detach(runner, &entry, pod.netns.as_deref());
            outcome = outcome.and(detached);
        }
        outcome.and(self.cache.remove_loopback(&pod.id))
    }

    /// What the cache says of a pod that is attached.
    #[must_use]
    pub fn cached(&self, pod_id: &str) -> Option<Attachment> {
        let entries = self.cache.of_pod(pod_id).ok()?;
        let attached = entries.iter().position(|entry| entry.result.is_some());
        entries
            .into_iter()
            .nth(attached.unwrap_or(0))
            .map(Attachment::from)
    }

    /// All attachments that the cache knows, those of an ADD that did not end included.
    ///
    /// # Errors
    /// The cache can't be read.
    pub fn attachments(&self) -> Result<Vec<Attachment>> {
        Ok(self
            .cache
            .all()?
            .into_iter()
            .map(Attachment::from)
            .collect())
    }

    /// Frees what belongs to no pod of `valid`: DEL for each cached attachment of another pod,
    /// then CNI 1.1's GC. A network with `disableGC` is left alone, and so are attachments that
    /// no CRI runtime made.
    ///
    /// # Errors
    /// The cache can't be read. What a plugin refused is in [`Collected::failed`].
    pub fn gc(&self, valid: &[String], timeout: Duration) -> Result<Collected> {
        let runner = self.runner(timeout);
        let mut collected = Collected::default();
        self.cache.sweep()?;
        for entry in self.cache.all()? {
            let id = entry.target.container_id.clone();
            let kept = entry
                .config
                .as_ref()
                .is_some_and(|network| network.disable_gc);
            if kept || valid.contains(&id) || !entry.is_of_a_pod() {
                continue;
            }
            let detached = self.detach(runner, &entry, entry.target.netns.as_deref());
            match detached.and_then(|()| self.cache.remove_loopback(&id)) {
                Ok(()) => collected.removed.push(id),
                Err(error) => collected.failed.push((id, error)),
            }
        }
        if let Ok(network) = self.ready_config() {
            self.gc_plugins(runner, &network, valid, &mut collected)?;
        }
        Ok(collected)
    }

    fn gc_plugins(
        &self,
        runner: Runner<'_>,
        network: &NetworkConfig,
        valid: &[String],
        collected: &mut Collected,
    ) -> Result<()> {
        if network.disable_gc || !plugin::knows_gc_and_status(network) {
            return Ok(());
        }
        let mut attachments: Vec<(String, String)> = self
            .cache
            .all()?
            .into_iter()
            .filter(|entry| entry.network == network.name)
            .map(|entry| (entry.target.container_id, entry.target.interface))
            .collect();
        attachments.extend(valid.iter().map(|id| (id.clone(), INTERFACE.to_owned())));
        attachments.sort();
        attachments.dedup();
        let attachments: Vec<_> = attachments
            .into_iter()
            .map(|(id, interface)| json!({"containerID": id, "ifname": interface}))
            .collect();
        for plugin in &network.plugins {
            // The second key is what libcni sent before the specification was settled.
            let extra = [
                ("cni.dev/valid-attachments", json!(attachments)),
                ("cni.dev/attachments", json!(attachments)),
            ];
            let done = runner.run(Command::Gc, network, plugin, &Target::default(), extra);
            if let Err(error) = done {
                collected.failed.push((plugin.kind.clone(), error));
            }
        }
        Ok(())
    }

    /// Runs DEL for an entry and removes it. A torn entry is deleted with the present
    /// configuration of its network, where that is the default one.
    fn detach(&self, runner: Runner<'_>, entry: &Entry, netns: Option<&Path>) -> Result<()> {
        let present;
        let network = match &entry.config {
            Some(network) => network,
            None => {
                present = self.current()?;
                if present.name != entry.network {
                    let reason = format!("network {:?} is not configured any more", entry.network);
                    return Err(Error::BadConfig {
                        path: self.options.conf_dir.clone(),
                        reason,
                    });
                }
                &present
            }
        };
        let netns = netns.filter(|path| is_namespace(path)).map(Path::to_owned);
        let target = Target {
            netns,
            ..entry.target.clone()
        };
        del_chain(
            runner,
            network,
            &target,
            entry.prev_result(network).as_ref(),
        )?;
        self.cache.remove(&entry.network, &target)
    }

    fn runner(&self, timeout: Duration) -> Runner<'_> {
        Runner {
            dirs: &self.options.plugin_dirs,
            deadline: Instant::now() + timeout,
        }
    }

    /// The present configuration whose plugins are all there.
    fn ready_config(&self) -> Result<Arc<NetworkConfig>, NotReady> {
        let network = self.current()?;
        for plugin in &network.plugins {
            if plugin::find(&self.options.plugin_dirs, &plugin.kind).is_none() {
                return Err(NotReady::new(format!(
                    "plugin {:?} of network {:?} is in none of {:?}",
                    plugin.kind, network.name, self.options.plugin_dirs
                )));
            }
        }
        Ok(network)
    }

    fn current(&self) -> Result<Arc<NetworkConfig>, NotReady> {
        let now = Fingerprint::of(&self.options.conf_dir);
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(seen), Some(config)) = (&loaded.seen, &loaded.config)
            && *seen == now
        {
            return config.clone();
        }
        let config = config::load(&self.options.conf_dir, &self.options.default_network);
        let config = config.map(Arc::new);
        *loaded = Loaded {
            seen: Some(now),
            config: Some(config.clone()),
        };
        config
    }
}

/// ADD to each plugin in order, each given the result before it.
fn add_chain(runner: Runner<'_>, network: &NetworkConfig, target: &Target) -> Result<CniResult> {
    let mut result: Option<CniResult> = None;
    for plugin in &network.plugins {
        let prev = result.map(|result| {
            (
                "prevResult",
                Value::Object(result.converted(network.version).object().clone()),
            )
        });
        let printed = runner.run(Command::Add, network, plugin, target, prev)?;
        result = Some(
            CniResult::parse(&printed, network.version).map_err(|reason| Error::BadResult {
                plugin: plugin.kind.clone(),
                reason,
            })?,
        );
    }
    Ok(result.unwrap_or_else(|| CniResult::empty(network.version)))
}

/// DEL to each plugin in reverse order. One that fails does not keep the others from freeing
/// what is theirs; all of them get a DEL again next time, which they must allow.
fn del_chain(
    runner: Runner<'_>,
    network: &NetworkConfig,
    target: &Target,
    prev_result: Option<&Value>,
) -> Result<()> {
    let mut outcome = Ok(());
    for plugin in network.plugins.iter().rev() {
        let prev = prev_result.map(|prev| ("prevResult", prev.clone()));
        let done = runner.run(Command::Del, network, plugin, target, prev);
        outcome = outcome.and(done.map(drop));
    }
    outcome
}

/// A place where a test build can be made to fail or die.
fn fault(point: &str, target: &Target) -> Result<()> {
    sys::fault::point(point).map_err(|error| Error::io("attach", &target.container_id, error))
}

/// Whether the path is a pinned namespace: after a reboot it may be a plain file, or nothing.
fn is_namespace(path: &Path) -> bool {
    const NSFS: u64 = 0x6e73_6673;
    const PROC: u64 = 0x9fa0;
    rustix::fs::statfs(path)
        .is_ok_and(|fs| u64::try_from(fs.f_type).is_ok_and(|kind| kind == NSFS || kind == PROC))
}

impl From<Entry> for Attachment {
    fn from(entry: Entry) -> Self {
        let json =
            |result: &CniResult| Value::Object(result.upgraded().object().clone()).to_string();
        Self {
            pod_id: entry.target.container_id,
            network: entry.network,
            interface: entry.target.interface,
            netns: entry.target.netns,
            config: entry
                .config
                .map(|network| String::from_utf8_lossy(&network.bytes).into_owned())
                .unwrap_or_default(),
            ips: entry
                .result
                .as_ref()
                .map(CniResult::ips)
                .unwrap_or_default(),
            result: entry.result.as_ref().map(json),
        }
    }
}
