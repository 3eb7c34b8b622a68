//! Which sysctls a pod may set: those of namespaces that are its own (CVE-2022-0811,
//! CVE-2022-0532).

use std::collections::BTreeMap;

use crate::Error;

/// Which of the pod's namespaces are the host's.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostNamespaces {
    /// Network.
    pub network: bool,
    /// System V IPC and POSIX message queues.
    pub ipc: bool,
}

/// What of the wish can be set, and what is left out because it would reach the host.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// To be set.
    pub set: BTreeMap<String, String>,
    /// Skipped: names.
    pub skipped: Vec<String>,
}

/// Checks names and values of `sysctls`, of which later ones win.
///
/// # Errors
/// [`Error::Sysctl`] for a name outside of the pod's namespaces or a value that could hold a
/// second setting.
pub fn check<'a>(
    sysctls: impl IntoIterator<Item = (&'a String, &'a String)>,
    host: HostNamespaces,
) -> Result<Checked, Error> {
    let mut checked = Checked::default();
    for (name, value) in sysctls {
        let invalid = |reason| Error::Sysctl {
            name: name.clone(),
            reason,
        };
        if name.trim() != name || value.trim() != value {
            return Err(invalid("spaces around name or value"));
        }
        if value.contains(['+', '=', '\n', '\r', '\0']) {
            return Err(invalid(
                "the value holds a character that could start another setting",
            ));
        }
        // Slashes and dots are exchangeable, as in sysctl(8).
        let dotted = name.replace('/', ".");
        if dotted.split('.').any(str::is_empty) || !dotted.bytes().all(is_name_byte) {
            return Err(invalid("malformed name"));
        }
        let (network, ipc) = (dotted.starts_with("net."), is_ipc(&dotted));
        if !network && !ipc {
            return Err(invalid("not in a namespace of the pod"));
        }
        if network && host.network || ipc && host.ipc {
            checked.skipped.push(dotted);
        } else {
            checked.set.insert(dotted, value.clone());
        }
    }
    Ok(checked)
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

/// Sysctls of the IPC namespace (ipc_namespaces(7)).
fn is_ipc(name: &str) -> bool {
    name == "kernel.sem"
        || ["kernel.shm", "kernel.msg", "fs.mqueue."]
            .iter()
            .any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_pods_own_namespaces_are_reached() {
        let own = HostNamespaces::default();
        let host = HostNamespaces {
            network: true,
            ipc: true,
        };
        for (name, value, namespaces, wanted) in [
            ("net.ipv4.ip_forward", "1", own, Some(true)),
            ("net/ipv4/ip_forward", "1", own, Some(true)),
            ("kernel.shmmax", "1", own, Some(true)),
            ("net.ipv4.ip_forward", "1", host, Some(false)),
            ("fs.mqueue.msg_max", "1", host, Some(false)),
            ("kernel.core_pattern", "x", own, None),
            (
                "kernel.shm_rmid_forced",
                "1+kernel.core_pattern=x",
                own,
                None,
            ),
            ("net.ipv4.x", "1\nkernel.core_pattern=x", own, None),
            ("net..x", "1", own, None),
            ("net.../../kernel/core_pattern", "1", own, None),
            (" net.ipv4.x", "1", own, None),
        ] {
            let got = check([(&name.to_owned(), &value.to_owned())], namespaces);
            assert_eq!(
                got.ok().map(|checked| !checked.set.is_empty()),
                wanted,
                "{name:?}={value:?}"
            );
        }
    }
}
