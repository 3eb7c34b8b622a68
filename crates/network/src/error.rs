//! What can go wrong with a pod's network.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// A result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// No pod can be attached at present, and why. The text is for the NetworkReady condition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct NotReady {
    /// What is missing, naming the file or directory.
    pub message: String,
}

impl NotReady {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
        }
    }
}

/// Why a network operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no usable network configuration.
    #[error("network is not ready")]
    NotReady(#[from] NotReady),
    /// The request itself can't be passed to a plugin.
    #[error("pod network request: {0}")]
    BadPod(String),
    /// A plugin answered with an error of the CNI specification.
    #[error(
        "plugin type={plugin:?} failed ({command}): {msg} (code {code}){}",
        colon(details)
    )]
    Plugin {
        /// The plugin's `type`.
        plugin: String,
        /// `ADD`, `DEL`, `GC` or `STATUS`.
        command: &'static str,
        /// Below 100: of the specification; 11 is "try again later".
        code: u64,
        /// The plugin's short text.
        msg: String,
        /// Its long one, often empty.
        details: String,
    },
    /// A plugin failed without an error of the specification.
    #[error("plugin type={plugin:?} failed ({command}): {how}")]
    PluginDied {
        /// The plugin's `type`.
        plugin: String,
        /// The command it was given.
        command: &'static str,
        /// Its status and the beginning of its output.
        how: String,
    },
    /// A plugin did not end in time; its process group was killed.
    #[error("plugin type={plugin:?} failed ({command}): timed out after {after:?}")]
    TimedOut {
        /// The plugin's `type`.
        plugin: String,
        /// The command it was given.
        command: &'static str,
        /// What was left of the operation's budget when it started.
        after: Duration,
    },
    /// A plugin's file is in none of the plugin directories.
    #[error("failed to find plugin {plugin:?} in path {dirs:?}")]
    MissingPlugin {
        /// The plugin's `type`.
        plugin: String,
        /// Where it was looked for.
        dirs: Vec<PathBuf>,
    },
    /// A plugin's result is none.
    #[error("plugin type={plugin:?} gave a bad result: {reason}")]
    BadResult {
        /// The plugin's `type`.
        plugin: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A configuration can't be used.
    #[error("CNI configuration {}: {reason}", path.display())]
    BadConfig {
        /// The file, or the cache entry that holds it.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Another pod has that port of the node.
    #[error("host port {port}/{protocol}{} is taken by pod sandbox {pod}", at(host_ip.as_ref()))]
    HostPortTaken {
        /// The port.
        port: u16,
        /// `tcp`, `udp` or `sctp`.
        protocol: &'static str,
        /// The address of the node that it is for; every one if `None`.
        host_ip: Option<IpAddr>,
        /// The id of the pod that has it.
        pod: String,
    },
    /// A program that sets the rules of host ports failed.
    #[error("host ports: {program}: {text}")]
    HostPorts {
        /// The program's name.
        program: &'static str,
        /// Its words.
        text: String,
    },
    /// A file or a program failed us.
    #[error("{doing} {}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn io(doing: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Io {
            doing,
            path: path.into(),
            source,
        }
    }
}

fn colon(details: &str) -> String {
    if details.is_empty() {
        String::new()
    } else {
        format!(": {details}")
    }
}

fn at(address: Option<&IpAddr>) -> String {
    address.map(|ip| format!(" at {ip}")).unwrap_or_default()
}
