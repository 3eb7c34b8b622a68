//! Sysctls: which may be set, and how.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::PathBuf;

use sys::namespace::Kind;

/// A sysctl that belongs to a namespace, and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sysctl {
    /// With slashes, beneath `/proc/sys`; never climbs.
    path: String,
    value: String,
}

impl Sysctl {
    /// Reads `key=value+key=value`. A `+` separates only where a known key and a `=` follow, so
    /// that a value can't bring in a sysctl of its own unseen: what follows is checked like the
    /// first, and anything else with a `+` in it is refused.
    pub(crate) fn parse_list(text: &str) -> Result<Vec<Self>, String> {
        text.split('+').map(Self::parse).collect()
    }

    fn parse(text: &str) -> Result<Self, String> {
        let (key, value) = text
            .split_once('=')
            .ok_or_else(|| format!("no sysctl: {text:?}"))?;
        let path = if key.contains('/') {
            key.to_owned()
        } else {
            key.replace('.', "/")
        };
        let good = |part: &str| {
            let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
            !part.is_empty() && part.chars().all(inner) && !part.starts_with('.')
        };
        let sysctl = Self {
            path,
            value: value.to_owned(),
        };
        let known = Kind::ALL.into_iter().any(|kind| sysctl.is_of(kind));
        if !sysctl.path.split('/').all(good) || !known {
            return Err(format!("not a sysctl of a namespace: {key:?}"));
        }
        if value.contains(['\n', '\0']) {
            return Err(format!("bad value of {key}"));
        }
        Ok(sysctl)
    }

    pub(crate) fn key(&self) -> String {
        self.path.replace('/', ".")
    }

    /// Whether it belongs to a kind of namespace: all of `net`, System V and message queues of
    /// IPC, two names of UTS. Any other would be the node's.
    pub(crate) fn is_of(&self, kind: Kind) -> bool {
        let ipc = ["kernel/msg", "kernel/sem", "kernel/shm", "fs/mqueue/"];
        match kind {
            Kind::Net => self.path.starts_with("net/"),
            Kind::Ipc => ipc.iter().any(|prefix| self.path.starts_with(prefix)),
            Kind::Uts => matches!(self.path.as_str(), "kernel/domainname" | "kernel/hostname"),
            Kind::User | Kind::Cgroup | Kind::Mount => false,
        }
    }

    /// Sets it in the calling process's namespaces.
    pub(crate) fn set(&self) -> io::Result<()> {
        let file = PathBuf::from("/proc/sys").join(&self.path);
        // In one write: the kernel takes a value whole or not at all.
        let mut file = OpenOptions::new().write(true).open(file)?;
        file.write_all(self.value.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sysctls_of_namespaces_are_taken_whatever_is_smuggled() {
        for (text, good) in [
            ("net.ipv4.ip_forward=1", true),
            ("net/ipv4/conf/eth0.5/forwarding=1", true),
            ("net.ipv4.ip_local_port_range=1024 65000", true),
            ("kernel.shmmax=1+net.ipv4.ip_forward=1", true),
            ("kernel.sem=1 2 3 4", true),
            ("fs.mqueue.msg_max=5", true),
            ("kernel.panic=1", false),
            ("net.ipv4.ip_forward=1+kernel.panic=1", false),
            ("net.ipv4.ip_forward=1+2", false),
            ("net.x=1+", false),
            ("vm.swappiness=1", false),
            ("net/../kernel/panic=1", false),
            ("net..x=1", false),
            ("/net/x=1", false),
            ("net.x", false),
            ("net.x=1\n2", false),
            ("=1", false),
            ("", false),
        ] {
            assert_eq!(Sysctl::parse_list(text).is_ok(), good, "{text:?}");
        }
    }
}
