//! A node of its own for a test: configuration, cache, plugins and a network namespace.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crioxide_network::{Network, Options, Pod};
use sys::spawn::{Output, Program, run};

pub(crate) const BUDGET: Duration = Duration::from_secs(30);
static SERIAL: AtomicU32 = AtomicU32::new(0);

/// Private directories, and names that no other test has.
pub(crate) struct Node {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) serial: u32,
}

impl Node {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["net.d", "bin", "cni", "ipam"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let serial = process::id() % 4096 * 16 + SERIAL.fetch_add(1, Ordering::Relaxed) % 16;
        Self { dir, serial }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn network(&self) -> Network {
        Network::new(Options {
            conf_dir: self.path("net.d"),
            plugin_dirs: vec![self.path("bin"), "/usr/lib/cni".into()],
            default_network: String::new(),
            cache_dir: self.path("cni"),
            cleanup_timeout: BUDGET,
        })
    }

    pub(crate) fn configure(&self, file: &str, config: &serde_json::Value) {
        fs::write(self.path("net.d").join(file), config.to_string()).unwrap();
    }

    /// A plugin that is a shell script; `$CNI_COMMAND` and the like are its environment. Each
    /// call is noted in `calls` with its input in `stdin.<command>.<name>`.
    pub(crate) fn fake(&self, name: &str, script: &str) {
        let path = self.path("bin").join(name);
        let log = self.dir.path().display();
        let script = format!(
            "#!/bin/sh\necho \"$CNI_COMMAND {name} netns=$CNI_NETNS\" >>{log}/calls\n\
             cat >{log}/stdin.$CNI_COMMAND.{name}\n{script}\n"
        );
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    pub(crate) fn calls(&self) -> String {
        fs::read_to_string(self.path("calls")).unwrap_or_default()
    }

    pub(crate) fn stdin(&self, command: &str, name: &str) -> serde_json::Value {
        let bytes = fs::read(self.path(&format!("stdin.{command}.{name}"))).unwrap();
        serde_json::from_slice(&bytes).unwrap()
    }

    pub(crate) fn cached_files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("cni/results"))
            .into_iter()
            .flatten()
            .flatten();
        let mut names: Vec<_> = entries
            .map(|entry| entry.file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    pub(crate) fn pod(&self, name: &str, netns: Option<&Path>) -> Pod {
        Pod {
            id: format!("{name}{:060x}", self.serial),
            name: name.to_owned(),
            namespace: "default".to_owned(),
            uid: "0f0f".to_owned(),
            netns: netns.map(Path::to_owned),
            ..Pod::default()
        }
    }
}

/// A network namespace pinned in the test's own directory (`ip netns` would make `/run/netns` a
/// mount, for good), let go at the end.
pub(crate) struct Netns(PathBuf);

impl Netns {
    pub(crate) fn new(node: &Node, name: &str) -> Self {
        let pin = node.path(&format!("netns-{name}"));
        let net = format!("--net={}", pin.display());
        fs::write(&pin, "").unwrap();
        let made = tool("/usr/bin/unshare", &[&net, "true"]);
        assert!(made.status.success(), "{made:?}");
        Self(pin)
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.0.clone()
    }

    /// What `ip` says inside.
    pub(crate) fn ip(&self, args: &[&str]) -> String {
        let net = format!("--net={}", self.0.display());
        let output = tool("/usr/bin/nsenter", &[&[&*net, "ip"], args].concat());
        assert!(output.status.success(), "ip {args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        sys::mount::unmount_lazily(&self.0).unwrap();
        fs::remove_file(&self.0).unwrap();
    }
}

pub(crate) fn tool(path: &str, args: &[&str]) -> Output {
    let program = Program::new(path, BUDGET)
        .args(args.iter().copied())
        .env("PATH", "/usr/sbin:/usr/bin");
    run(&program).unwrap()
}
