//! A node of a test's own: store, network, cgroup and daemon in private places, and the audit that
//! nothing of it is left.

use std::ffi::OsString;
use std::fs;
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use cri::v1;
use sys::spawn::{Child, Session, Spec};

use crate::audit;
use crate::client::Client;

mod calls;

/// How long the daemon may take to answer, in a debug build on a busy machine.
const START: Duration = Duration::from_secs(60);

/// What a node is like, where it differs from the default.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// OCI runtime; `runc` or what `CRIOXIDE_TEST_RUNTIME` names if empty.
    pub runtime: String,
    /// Faults to inject (`sys::fault`).
    pub faults: String,
    /// A drop-in beside `crio.conf`.
    pub config: String,
    /// Directory of CNI plugins put before the distribution's.
    pub plugins: Option<PathBuf>,
    /// CNI configuration in place of a bridge.
    pub network: Option<String>,
    /// Plugins that follow the bridge, as JSON, each after a comma.
    pub chained: String,
    /// Registries that are spoken to without TLS, `host:port`.
    pub insecure: Vec<String>,
    /// Whether clients may subscribe to events.
    pub events: bool,
    /// Further lines of `registries.conf`.
    pub registries: String,
    /// Log level of the daemon; `debug` if empty.
    pub log_level: String,
    /// Further arguments of the daemon.
    pub arguments: Vec<String>,
    /// Its `storage.conf`.
    pub storage_conf: String,
    /// Further variables of the daemon's environment.
    pub env: Vec<(String, String)>,
}

/// A node.
#[derive(Debug)]
pub struct Node {
    /// Name that everything of it carries.
    pub name: String,
    /// Its persistent directory.
    pub dir: PathBuf,
    /// Its directory on tmpfs.
    pub run_dir: PathBuf,
    options: Options,
    daemon: Option<Child>,
    client: Option<Client>,
}

impl Node {
    /// Starts one.
    ///
    /// # Errors
    /// The daemon does not answer; its log is in the text.
    pub async fn start(options: Options) -> Result<Self> {
        let random: String = sys::random::bytes::<3>()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        Self::start_as(&random, options).await
    }

    /// Starts one with a name of the caller's, six hexadecimal digits, on what may be left of an
    /// earlier one.
    ///
    /// # Errors
    /// See [`Node::start`].
    pub async fn start_as(random: &str, options: Options) -> Result<Self> {
        let name = format!("crixt-{random}");
        let base = std::env::var_os("CRIOXIDE_TEST_DIR")
            .map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
        let mut node = Self {
            dir: base.join(&name),
            run_dir: Path::new("/run").join(&name),
            name,
            options,
            daemon: None,
            client: None,
        };
        node.configure(random)?;
        node.start_daemon().await?;
        Ok(node)
    }

    /// Runs with other faults from the next start of the daemon.
    pub fn set_faults(&mut self, faults: &str) {
        self.options.faults = faults.to_owned();
    }

    fn configure(&self, random: &str) -> Result<()> {
        for dir in [
            &self.dir,
            &self.run_dir,
            &self.logs(),
            &self.dir.join("net.d"),
            &self.dir.join("crio.conf.d"),
        ] {
            fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        }
        let write = |name: &str, text: &str| {
            fs::write(self.dir.join(name), text).context("configure the node")
        };
        write(
            "policy.json",
            r#"{"default":[{"type":"insecureAcceptAnything"}]}"#,
        )?;
        let insecure = self.options.insecure.iter();
        let insecure =
            insecure.map(|host| format!("[[registry]]\nlocation = \"{host}\"\ninsecure = true\n"));
        let insecure: String = insecure.collect();
        write("registries.conf", &(insecure + &self.options.registries))?;
        // A bridge and a range of its own; both are derived from the node's name.
        let network = self.pod_network();
        let bridge = format!(
            r#"{{"cniVersion":"0.4.0","name":"{name}","plugins":[{{"type":"bridge","bridge":"cx{random}","isGateway":true,
            "ipMasq":false,"hairpinMode":true,"ipam":{{"type":"host-local","dataDir":"{data}","ranges":[[{{"subnet":"{network}/28"}}]]}}}}{chained}]}}"#,
            name = self.name,
            data = self.ipam().display(),
            chained = self.options.chained,
        );
        write(
            "net.d/10-test.conflist",
            self.options.network.as_ref().unwrap_or(&bridge),
        )?;
        write("crio.conf.d/50-test.conf", &self.options.config)?;
        write("storage.conf", &self.options.storage_conf)?;
        write("crio.conf", &self.config())
    }

    fn config(&self) -> String {
        let runtime = self.runtime();
        let own = self
            .options
            .plugins
            .iter()
            .map(|dir| format!("{:?}, ", dir));
        format!(
            r#"[crio]
root = "{dir}/storage"
runroot = "{run}/storage"
version_file = "{run}/version"
version_file_persist = "{dir}/version"
clean_shutdown_file = "{dir}/clean.shutdown"
log_dir = "{dir}/logs"
[crio.api]
listen = "{socket}"
[crio.runtime]
cgroup_manager = "{manager}"
conmon_cgroup = "{slice}"
default_runtime = "{runtime}"
container_exits_dir = "{run}/exits"
enable_pod_events = {events}
namespaces_dir = "{run}/ns"
log_level = "{level}"
[crio.runtime.runtimes.{runtime}]
runtime_root = "{run}/runtime"
[crio.image]
signature_policy = "{dir}/policy.json"
[crio.network]
network_dir = "{dir}/net.d"
plugin_dirs = [{own}"/opt/cni/bin", "/usr/lib/cni"]
"#,
            dir = self.dir.display(),
            run = self.run_dir.display(),
            socket = self.socket().display(),
            manager = cgroup_manager(),
            slice = if systemd() {
                self.slice()
            } else {
                String::new()
            },
            events = self.options.events,
            level = if self.options.log_level.is_empty() {
                "debug"
            } else {
                &self.options.log_level
            },
            own = own.collect::<String>(),
        )
    }

    /// The OCI runtime that it runs with.
    #[must_use]
    pub fn runtime(&self) -> String {
        if self.options.runtime.is_empty() {
            std::env::var("CRIOXIDE_TEST_RUNTIME").unwrap_or_else(|_| "runc".to_owned())
        } else {
            self.options.runtime.clone()
        }
    }

    /// The first of the sixteen addresses that its pods have by default.
    #[must_use]
    pub fn pod_network(&self) -> Ipv4Addr {
        let random = self.name.rsplit('-').next().unwrap_or_default();
        let number = u32::from_str_radix(random, 16).unwrap_or(0);
        let second = 200 + (number >> 12 & 0x1f);
        Ipv4Addr::from(10 << 24 | second << 16 | (number & 0xfff) << 4)
    }

    /// What sets the rules of host ports, where the node's arguments say it.
    pub(crate) fn host_ports(&self) -> Option<network::Backend> {
        let given = |backend: &str| {
            let argument = format!("--host-ports={backend}");
            self.options.arguments.contains(&argument)
        };
        match (given("nftables"), given("iptables")) {
            (true, _) => Some(network::Backend::Nftables),
            (_, true) => Some(network::Backend::Iptables),
            _ => None,
        }
    }

    /// The daemon's arguments.
    #[must_use]
    pub fn arguments(&self) -> Vec<String> {
        let (dir, run_dir) = (self.dir.display(), self.run_dir.display());
        let own = [
            format!("--config={dir}/crio.conf"),
            format!("--config-dir={dir}/crio.conf.d"),
            format!("--registries-conf={dir}/registries.conf"),
            format!("--registries-conf-dir={dir}/registries.conf.d"),
            format!("--registries-d={dir}/registries.d"),
            format!("--run-dir={run_dir}/crio"),
            format!("--cni-cache-dir={dir}/cni"),
            format!("--cgroup-root={}", self.cgroup()),
        ];
        let further = self.options.arguments.iter().cloned();
        own.into_iter().chain(further).collect()
    }

    /// Connects to a daemon that somebody else has started with [`Self::arguments`].
    ///
    /// # Errors
    /// Nobody listens.
    pub async fn connect(&mut self) -> Result<()> {
        self.client = Some(Client::connect(&self.socket()).await?);
        Ok(())
    }

    /// Starts the daemon and waits until it answers.
    ///
    /// # Errors
    /// It ends, or does not answer in time.
    pub async fn start_daemon(&mut self) -> Result<()> {
        let program = binary("crioxide")?;
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.log_file())?;
        let mut spec = Spec::new(&program);
        spec.args = self.arguments().into_iter().map(OsString::from).collect();
        let path = std::env::var_os("PATH").unwrap_or_default();
        spec.env = vec![
            ("PATH".into(), path),
            ("CRIOXIDE_FAULTS".into(), self.options.faults.clone().into()),
        ];
        // Never the machine's own.
        let storage_conf = self.dir.join("storage.conf");
        spec.env
            .push(("CONTAINERS_STORAGE_CONF".into(), storage_conf.into()));
        let further = self.options.env.iter().cloned();
        spec.env
            .extend(further.map(|(name, value)| (name.into(), value.into())));
        spec.session = Session::Own;
        spec.fds = vec![(log.as_fd(), 1), (log.as_fd(), 2)];
        let mut daemon = sys::spawn::spawn(&spec)
            .map_err(|error| anyhow::anyhow!("{error}"))
            .context("start crioxide")?;
        let deadline = tokio::time::Instant::now() + START;
        let mut tick = tokio::time::interval(Duration::from_millis(10));
        loop {
            tick.tick().await;
            if let Ok(client) = Client::connect(&self.socket()).await
                && client
                    .runtime()
                    .version(v1::VersionRequest::default())
                    .await
                    .is_ok()
            {
                self.client = Some(client);
                self.daemon = Some(daemon);
                return Ok(());
            }
            if let Some(status) = daemon.try_wait()? {
                bail!("the daemon ended at once ({status}):\n{}", self.log_tail());
            }
            if tokio::time::Instant::now() > deadline {
                daemon.kill_group();
                bail!("the daemon does not answer:\n{}", self.log_tail());
            }
        }
    }

    /// Kills the daemon, and it alone, with SIGKILL.
    ///
    /// # Errors
    /// It does not end.
    pub fn kill_daemon(&mut self) -> Result<()> {
        if let Some(mut daemon) = self.daemon.take() {
            // It may have been killed by a fault already.
            daemon.signal(rustix::process::Signal::KILL).ok();
            daemon.wait(Some(START))?;
        }
        self.client = None;
        Ok(())
    }

    /// Waits for the daemon to end by itself: by a fault.
    ///
    /// # Errors
    /// It does not.
    pub fn daemon_died(&mut self) -> Result<()> {
        if let Some(mut daemon) = self.daemon.take() {
            ensure!(
                daemon.wait(Some(START))?.is_some(),
                "the daemon did not die"
            );
        }
        self.client = None;
        Ok(())
    }

    /// Ends the daemon with SIGTERM.
    ///
    /// # Errors
    /// It does not end, or badly.
    pub fn stop_daemon(&mut self) -> Result<()> {
        self.client = None;
        let Some(mut daemon) = self.daemon.take() else {
            return Ok(());
        };
        daemon.signal(rustix::process::Signal::TERM)?;
        match daemon.wait(Some(START))? {
            Some(status) if status.success() => Ok(()),
            status => bail!("the daemon ended with {status:?}:\n{}", self.log_tail()),
        }
    }

    /// The daemon's process.
    #[must_use]
    pub fn daemon_pid(&self) -> Option<i32> {
        self.daemon
            .as_ref()
            .map(|daemon| daemon.pid().as_raw_nonzero().get())
    }

    /// Restarts the daemon after SIGKILL.
    ///
    /// # Errors
    /// As [`Self::start_daemon`].
    pub async fn restart(&mut self) -> Result<()> {
        self.kill_daemon()?;
        self.start_daemon().await
    }

    /// Cuts the power and starts again: nothing that lived is there, and nothing on tmpfs.
    ///
    /// # Errors
    /// As [`Self::start_daemon`].
    pub async fn reboot(&mut self) -> Result<()> {
        self.kill_daemon()?;
        audit::halt(self);
        fs::remove_dir_all(&self.run_dir).context("empty the tmpfs")?;
        fs::create_dir_all(&self.run_dir).context("a tmpfs")?;
        self.start_daemon().await
    }

    /// A client of the daemon.
    ///
    /// # Panics
    /// While there is no daemon.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone().expect("the daemon was started")
    }

    /// The CRI socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.run_dir.join("crio.sock")
    }

    /// Directory of pods' logs.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.dir.join("logs")
    }

    /// Parent of its cgroups.
    #[must_use]
    pub fn cgroup(&self) -> String {
        if systemd() {
            format!("/crixt.slice/{}", self.slice())
        } else {
            format!("/{}", self.name)
        }
    }

    /// Slice of its units, where systemd keeps the cgroups.
    fn slice(&self) -> String {
        format!("{}.slice", self.name)
    }

    /// The store.
    #[must_use]
    pub fn storage(&self) -> PathBuf {
        self.dir.join("storage")
    }

    /// The driver of the store: it is in the names of its directories.
    #[must_use]
    pub fn storage_driver(&self) -> &'static str {
        match self.storage().join("vfs").is_dir() {
            true => "vfs",
            false => "overlay",
        }
    }

    /// The directory of a table of the store: `layers`, `images`, `containers`.
    #[must_use]
    pub fn storage_table(&self, table: &str) -> PathBuf {
        self.storage()
            .join(format!("{}-{table}", self.storage_driver()))
    }

    /// host-local's reservations.
    #[must_use]
    pub fn ipam(&self) -> PathBuf {
        self.dir.join("ipam")
    }

    fn log_file(&self) -> PathBuf {
        self.dir.join("crioxide.log")
    }

    /// The end of the daemon's log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let text = fs::read_to_string(self.log_file()).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines
            .get(lines.len().saturating_sub(60)..)
            .unwrap_or_default()
            .join("\n")
    }

    /// Waits, for ten seconds at most, for threads of pulls that were cut off: a daemon that ends leaves what
    /// they have not yet taken away to its successor.
    async fn unpacked(&self) {
        let mut tick = tokio::time::interval(Duration::from_millis(20));
        for _ in 0..500 {
            if audit::staged(self).next().is_none() {
                return;
            }
            tick.tick().await;
        }
    }

    /// Removes all pods, ends the daemon, and fails on anything that is left.
    ///
    /// # Errors
    /// What is left, by name.
    pub async fn finish(mut self) -> Result<()> {
        let pods = self
            .client()
            .runtime()
            .list_pod_sandbox(v1::ListPodSandboxRequest::default())
            .await?
            .into_inner();
        for pod in pods.items {
            self.remove_pod(&pod.id)
                .await
                .with_context(|| format!("remove pod {}\n{}", pod.id, self.log_tail()))?;
        }
        self.unpacked().await;
        self.stop_daemon()?;
        let left = audit::left(&self);
        ensure!(
            left.is_empty(),
            "left behind by {}:\n{}\n{}",
            self.name,
            left.join("\n"),
            self.log_tail()
        );
        Ok(())
    }
}

impl Drop for Node {
    /// Cleans up by force: after a failed test too.
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill_group();
            daemon.wait(Some(START)).ok();
        }
        audit::clear(self);
    }
}

/// The cgroup manager that nodes have: `cgroupfs`, or what `CRIOXIDE_TEST_CGROUP_MANAGER` says.
fn cgroup_manager() -> String {
    std::env::var("CRIOXIDE_TEST_CGROUP_MANAGER").unwrap_or_else(|_| "cgroupfs".to_owned())
}

/// Whether nodes have their cgroups kept by systemd.
#[must_use]
pub fn systemd() -> bool {
    cgroup_manager() == "systemd"
}

/// A program of ours: from `CRIOXIDE_BIN_DIR`, else from where the test itself was built to.
///
/// # Errors
/// It was not built.
pub fn binary(name: &str) -> Result<PathBuf> {
    let dir = match std::env::var_os("CRIOXIDE_BIN_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => {
            let own = std::env::current_exe()?;
            let dir = own.parent().context("a program has a directory")?;
            if dir.ends_with("deps") {
                dir.parent().unwrap_or(dir).to_owned()
            } else {
                dir.to_owned()
            }
        }
    };
    let path = dir.join(name);
    ensure!(
        path.is_file(),
        "{} is not built: run scripts/build",
        path.display()
    );
    Ok(path)
}
