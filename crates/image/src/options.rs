//! What this crate is told about the node.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use storage::UnpackLimits;
use trust::Policy;

use crate::error::Result;
use crate::platform::Platform;
use crate::registries::Registries;

/// Files, limits and times.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Options {
    /// `registries.conf`; absent is fine.
    pub registries_conf: PathBuf,
    /// Its drop-in directory; absent is fine.
    pub registries_conf_dir: PathBuf,
    /// Directory of files that say where signatures are (containers-registries.d(5)); absent is fine.
    pub registries_d: PathBuf,
    /// The user's own, which takes the place of `registries_d` as soon as it is there.
    pub user_registries_d: Option<PathBuf>,
    /// Directories with a directory `host[:port]` of certificates each.
    pub certs_dirs: Vec<PathBuf>,
    /// `policy.json`; absent refuses every image.
    pub policy: PathBuf,
    /// Directory of policies of Kubernetes namespaces, `NAMESPACE.json`, each in place of `policy`.
    pub policy_dir: Option<PathBuf>,
    /// Directory of files of credentials for one pull each, by namespace and image; absent is fine.
    pub namespaced_auth_dir: Option<PathBuf>,
    /// Credentials that come before those of `auth_files`.
    pub global_auth_file: Option<PathBuf>,
    /// Files of credentials (`auth.json`, docker's `config.json`), the first that knows the
    /// repository counts; absent ones are fine.
    pub auth_files: Vec<PathBuf>,
    /// Directories (`a:b`) in which credential helpers are looked up.
    pub helper_path: String,
    /// Directory of private keys for encrypted layers, read at each pull of one; absent is fine.
    pub decryption_keys: PathBuf,
    /// File that names programs which unwrap the keys of encrypted layers.
    pub key_providers: Option<PathBuf>,
    /// What registries are told we are.
    pub user_agent: String,
    /// What is done with ambiguous short names; what `registries.conf` says if `None`.
    pub short_names: Option<ShortNames>,
    /// Which of an index's images is taken.
    pub platform: Platform,
    /// Directories whose `artifacts` are read before the store's own and never written.
    pub additional_artifact_stores: Vec<PathBuf>,
    /// Patterns of images that the kubelet must not collect: exact, `glob*` or `*keyword*`.
    pub pinned: Vec<String>,
    /// Whether of zstd:chunked layers only those files are fetched that the store lacks.
    pub partial_pulls: bool,
    /// Layers that are fetched and unpacked at once, over all pulls.
    pub parallel_layers: usize,
    /// Time to connect, TLS included.
    pub connect_timeout: Duration,
    /// Time from a request to its answer's headers.
    pub header_timeout: Duration,
    /// Time without a byte after which a connection is given up and resumed; zero is for ever.
    pub pull_progress_timeout: Duration,
    /// Bytes per second below which (over `pull_progress_timeout`) it is given up as well.
    pub minimum_rate: u64,
    /// The longest wait that a registry's `Retry-After` is given.
    pub retry_wait: Duration,
    /// Directory for large files that are needed for a while.
    pub temporary: PathBuf,
    /// How much a layer may hold.
    pub unpack_limits: UnpackLimits,
    /// Arguments with which the running program is a worker: it gives standard input and output to
    /// [`crate::Assignment`].
    pub worker: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            registries_conf: "/etc/containers/registries.conf".into(),
            registries_conf_dir: "/etc/containers/registries.conf.d".into(),
            registries_d: "/etc/containers/registries.d".into(),
            user_registries_d: None,
            certs_dirs: vec![
                "/etc/containers/certs.d".into(),
                "/etc/docker/certs.d".into(),
            ],
            policy: "/etc/containers/policy.json".into(),
            policy_dir: None,
            namespaced_auth_dir: None,
            global_auth_file: None,
            auth_files: Vec::new(),
            helper_path: std::env::var("PATH").unwrap_or_default(),
            decryption_keys: "/etc/crio/keys".into(),
            key_providers: std::env::var_os("OCICRYPT_KEYPROVIDER_CONFIG").map(PathBuf::from),
            user_agent: "crioxide".to_owned(),
            short_names: None,
            platform: Platform::host(),
            additional_artifact_stores: Vec::new(),
            pinned: Vec::new(),
            partial_pulls: true,
            parallel_layers: 6,
            connect_timeout: Duration::from_secs(30),
            header_timeout: Duration::from_secs(60),
            pull_progress_timeout: Duration::from_secs(60),
            minimum_rate: 1024,
            retry_wait: Duration::from_secs(60),
            temporary: "/var/tmp".into(),
            unpack_limits: UnpackLimits::default(),
            worker: Vec::new(),
        }
    }
}

/// What is done with a name without a host that several registries may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ShortNames {
    /// It is refused.
    Enforcing,
    /// The first registry that has it is taken.
    Disabled,
}

/// Those of the [`Options`] that may change while the daemon runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changing {
    /// See [`Options::decryption_keys`].
    pub decryption_keys: PathBuf,
    /// See [`Options::pinned`].
    pub pinned: Vec<String>,
    /// See [`Options::worker`].
    pub worker: Vec<String>,
}

impl Changing {
    /// What the options begin with.
    #[must_use]
    pub fn of(options: &Options) -> Self {
        Self {
            decryption_keys: options.decryption_keys.clone(),
            pinned: options.pinned.clone(),
            worker: options.worker.clone(),
        }
    }
}

impl Options {
    /// Reads `registries.conf` and its drop-ins. Blocks.
    pub(crate) fn registries(&self) -> Result<Registries> {
        let registries = Registries::load(&self.registries_conf, &self.registries_conf_dir)?;
        Ok(match self.short_names {
            Some(mode) => registries.with_short_names(mode),
            None => registries,
        })
    }

    /// The directory `registries.d` that counts now.
    pub(crate) fn registries_d(&self) -> &Path {
        let user = self.user_registries_d.as_deref();
        let there = |dir: &&Path| dir.try_exists().unwrap_or(true);
        user.filter(there).unwrap_or(&self.registries_d)
    }

    /// The policy for what a Kubernetes namespace pulls and runs: its own, where there is a file of
    /// it, else the node's. An empty namespace is none.
    ///
    /// # Errors
    /// [`Error::Policy`].
    pub(crate) fn policy_of(&self, namespace: &str) -> Result<Policy> {
        let own = self
            .policy_dir
            .as_ref()
            .filter(|_| is_label(namespace))
            .map(|dir| dir.join(format!("{namespace}.json")));
        match own.map(|path| Policy::load(&path)) {
            Some(Err(trust::Error::Read { source, .. }))
                if source.kind() == std::io::ErrorKind::NotFound => {}
            Some(policy) => return Ok(policy?),
            None => {}
        }
        Ok(Policy::load(&self.policy)?)
    }
}

/// A label of RFC 1123, as namespaces are: nothing that leads out of a directory.
pub(crate) fn is_label(namespace: &str) -> bool {
    let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !namespace.is_empty() && namespace.chars().all(fine)
}
