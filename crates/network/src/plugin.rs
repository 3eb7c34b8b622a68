//! Running one plugin: environment and stdin in, result or typed error out.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Map, Value, json};
use sys::spawn::{self, Program};

use crate::config::{NetworkConfig, PluginConfig};
use crate::error::{Error, Result};
use crate::limits;
use crate::version::Version;

/// What a plugin is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Add,
    Del,
    Gc,
    Status,
}

impl Command {
    fn word(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Gc => "GC",
            Self::Status => "STATUS",
        }
    }
}

/// What a chain's plugins are told of the attachment; empty for GC and STATUS.
#[derive(Clone, Debug, Default)]
pub(crate) struct Target {
    pub(crate) container_id: String,
    pub(crate) netns: Option<PathBuf>,
    pub(crate) interface: String,
    pub(crate) args: Vec<(String, String)>,
    pub(crate) capability_args: Map<String, Value>,
}

/// Where plugins are found and until when they may run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Runner<'a> {
    pub(crate) dirs: &'a [PathBuf],
    pub(crate) deadline: Instant,
}

impl Runner<'_> {
    /// Runs one plugin of a network's chain and returns what it printed.
    pub(crate) fn run(
        &self,
        command: Command,
        network: &NetworkConfig,
        plugin: &PluginConfig,
        target: &Target,
        extra: impl IntoIterator<Item = (&'static str, Value)>,
    ) -> Result<Vec<u8>> {
        let mut object = plugin.object.clone();
        object.insert("name".to_owned(), json!(network.name));
        object.insert("cniVersion".to_owned(), json!(network.version.to_string()));
        for (key, value) in extra {
            object.insert(key.to_owned(), value);
        }
        let declared: Map<String, Value> = target
            .capability_args
            .iter()
            .filter(|(capability, _)| plugin.declares(capability))
            .map(|(capability, args)| (capability.clone(), args.clone()))
            .collect();
        if !declared.is_empty() {
            object.insert("runtimeConfig".to_owned(), Value::Object(declared));
        }
        let stdin = serde_json::to_vec(&object).expect("a JSON object serialises");
        self.exec(command, &plugin.kind, target, stdin)
    }

    fn exec(
        &self,
        command: Command,
        kind: &str,
        target: &Target,
        stdin: Vec<u8>,
    ) -> Result<Vec<u8>> {
        let path = find(self.dirs, kind).ok_or_else(|| Error::MissingPlugin {
            plugin: kind.to_owned(),
            dirs: self.dirs.to_vec(),
        })?;
        let timeout = self.deadline.saturating_duration_since(Instant::now());
        let (plugin, command) = (kind.to_owned(), command.word());
        if timeout.is_zero() {
            return Err(Error::TimedOut {
                plugin,
                command,
                after: timeout,
            });
        }
        let program = Program {
            env: environment(command, target, self.dirs),
            stdin,
            output_limit: limits::PLUGIN_OUTPUT_BYTES,
            ..Program::new(&path, timeout)
        };
        let output = match run_unless_busy(&program) {
            Ok(output) => output,
            Err(spawn::Error::TimedOut { after, .. }) => {
                return Err(Error::TimedOut {
                    plugin,
                    command,
                    after,
                });
            }
            Err(spawn::Error::Start { source, .. }) => {
                return Err(Error::io("start CNI plugin", path, source));
            }
            Err(spawn::Error::Io { source, .. }) => {
                return Err(Error::io("talk to CNI plugin", path, source));
            }
        };
        if output.status.success() && !output.truncated {
            return Ok(output.stdout);
        }
        Err(failure(plugin, command, &output))
    }
}

/// The file of a plugin: the first executable one in the directories.
pub(crate) fn find(dirs: &[PathBuf], kind: &str) -> Option<PathBuf> {
    dirs.iter().map(|dir| dir.join(kind)).find(|path| {
        path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
    })
}

/// The daemon's own environment (plugins look for proxies and the like in it) and CNI's.
fn environment(command: &str, target: &Target, dirs: &[PathBuf]) -> Vec<(OsString, OsString)> {
    let args: Vec<_> = target
        .args
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let netns = target
        .netns
        .as_deref()
        .map(Path::as_os_str)
        .unwrap_or_default();
    let path = std::env::join_paths(dirs).unwrap_or_default();
    let own = std::env::vars_os().filter(|(key, _)| !key.to_string_lossy().starts_with("CNI_"));
    own.chain([
        ("CNI_COMMAND".into(), command.into()),
        (
            "CNI_CONTAINERID".into(),
            target.container_id.as_str().into(),
        ),
        ("CNI_NETNS".into(), netns.into()),
        ("CNI_IFNAME".into(), target.interface.as_str().into()),
        ("CNI_ARGS".into(), args.join(";").into()),
        ("CNI_PATH".into(), path),
    ])
    .collect()
}

/// A plugin that is just being replaced can't be executed for a moment (`ETXTBSY`).
fn run_unless_busy(program: &Program) -> std::result::Result<spawn::Output, spawn::Error> {
    const TRIES: u32 = 5;
    const PAUSE: Duration = Duration::from_millis(200);
    for _ in 1..TRIES {
        match spawn::run(program) {
            Err(spawn::Error::Start { source, .. })
                if source.kind() == io::ErrorKind::ExecutableFileBusy =>
            {
                #[allow(
                    clippy::disallowed_methods,
                    reason = "no event tells that a file's writer is done"
                )]
                std::thread::sleep(PAUSE);
            }
            other => return other,
        }
    }
    spawn::run(program)
}

/// CNI specification, "Error". `cniVersion` of it says nothing that we need.
#[derive(Deserialize)]
struct PluginError {
    #[serde(default)]
    code: u64,
    #[serde(default)]
    msg: String,
    #[serde(default)]
    details: String,
}

fn failure(plugin: String, command: &'static str, output: &spawn::Output) -> Error {
    match serde_json::from_slice::<PluginError>(&output.stdout) {
        Ok(error) if error.code != 0 || !error.msg.is_empty() => Error::Plugin {
            plugin,
            command,
            code: error.code,
            msg: quote(error.msg.as_bytes()),
            details: quote(error.details.as_bytes()),
        },
        _ if output.truncated && output.status.success() => Error::PluginDied {
            plugin,
            command,
            how: format!("it printed more than {} bytes", limits::PLUGIN_OUTPUT_BYTES),
        },
        _ => {
            let words = if output.stdout.is_empty() {
                &output.stderr
            } else {
                &output.stdout
            };
            let how = format!("{}, output {:?}", output.status, quote(words));
            Error::PluginDied {
                plugin,
                command,
                how,
            }
        }
    }
}

/// The beginning of a plugin's words, on one line.
fn quote(bytes: &[u8]) -> String {
    let head = bytes.get(..limits::QUOTED_BYTES).unwrap_or(bytes);
    let text = String::from_utf8_lossy(head);
    text.trim()
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// Whether the network's version has GC and STATUS.
pub(crate) fn knows_gc_and_status(network: &NetworkConfig) -> bool {
    network.version >= Version::GC_AND_STATUS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugins_error_is_typed_and_its_words_are_bounded() {
        let output = |stdout: &str, stderr: &str| spawn::Output {
            status: spawn::Status::Exited(1),
            stdout: stdout.into(),
            stderr: stderr.into(),
            truncated: false,
        };
        let of = |stdout: &str, stderr: &str| {
            failure("p".into(), "ADD", &output(stdout, stderr)).to_string()
        };
        assert_eq!(
            of("{\"code\":11,\"msg\":\"busy\",\"details\":\"later\"}", ""),
            "plugin type=\"p\" failed (ADD): busy (code 11): later"
        );
        assert!(of("", "no such\nthing").contains("no such thing"));
        assert!(of(&"x".repeat(1 << 20), "").len() < 2 * limits::QUOTED_BYTES);
    }
}
