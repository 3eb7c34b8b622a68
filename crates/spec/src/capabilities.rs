//! Capability sets of a container's first process (capabilities(7)).

use serde::{Deserialize, Serialize};

use crate::{Error, oci};

/// Names without the `CAP_` prefix, by number.
const NAMES: &[&str] = &[
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// A set of capabilities, a bit each, as `/proc/PID/status` shows it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Set(u64);

impl Set {
    /// Every capability that has a name here.
    #[must_use]
    pub fn all() -> Self {
        Self((1 << NAMES.len()) - 1)
    }

    /// The set whose bits are `bits`; unnamed ones are left out.
    #[must_use]
    pub fn from_bits(bits: u64) -> Self {
        Self(bits & Self::all().0)
    }

    /// The set of `names`, with or without prefix, in any case; `ALL` stands for every one.
    ///
    /// # Errors
    /// [`Error::UnknownCapability`].
    pub fn parse<S: AsRef<str>>(names: &[S]) -> Result<Self, Error> {
        names.iter().try_fold(Self::default(), |set, name| {
            let upper = name.as_ref().to_ascii_uppercase();
            let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
            match NAMES.iter().position(|known| *known == bare) {
                Some(number) => Ok(Self(set.0 | 1 << number)),
                None if bare == "ALL" => Ok(Self::all()),
                None => Err(Error::UnknownCapability(name.as_ref().to_owned())),
            }
        })
    }

    /// The bits.
    #[must_use]
    pub fn bits(self) -> u64 {
        self.0
    }

    /// Those in both sets.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Those in either set.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those that are not in `other`.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether the capability `name`, with its prefix, is in the set.
    #[must_use]
    pub fn has(self, name: &str) -> bool {
        self.names().iter().any(|have| have == name)
    }

    /// Names with the prefix, by number.
    #[must_use]
    pub fn names(self) -> Vec<String> {
        let set = NAMES
            .iter()
            .enumerate()
            .filter(|(number, _)| self.0 >> number & 1 == 1);
        set.map(|(_, name)| format!("CAP_{name}")).collect()
    }
}

/// What a request asks of capabilities.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Added to the defaults.
    pub add: Vec<String>,
    /// Taken from the result.
    pub drop: Vec<String>,
    /// Added to the ambient set too.
    pub ambient: Vec<String>,
}

/// The five sets of a process, and what of the wish the kernel would refuse us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sets {
    /// For the spec.
    pub sets: oci::Capabilities,
    /// Asked for, but not in the daemon's own bounding set: left out.
    pub refused: Set,
    /// The bounding set, on which seccomp rules depend.
    pub bounding: Set,
}

/// How a container's capabilities come about.
#[derive(Debug, Clone, Copy)]
pub struct Policy<'a> {
    /// The configured default names.
    pub defaults: &'a [String],
    /// Everything is granted.
    pub privileged: bool,
    /// Whether they go to the inheritable set too.
    pub inheritable: bool,
    /// Whether the first process runs as root.
    pub root: bool,
    /// What the daemon itself may hand on.
    pub grantable: Set,
}

/// Works out the sets: defaults or all, plus what is added, minus what is dropped, within what we
/// can grant. `ALL` in both lists keeps what is added by name beside it (CRI, `Capability`).
///
/// # Errors
/// [`Error::UnknownCapability`].
pub fn resolve(request: &Request, policy: Policy<'_>) -> Result<Sets, Error> {
    let (add_all, add) = split_all(&request.add)?;
    let (drop_all, dropped) = split_all(&request.drop)?;
    let base = if policy.privileged || add_all {
        Set::all()
    } else {
        Set::parse(policy.defaults)?
    };
    let ambient = Set::parse(&request.ambient)?;
    let wanted = if policy.privileged {
        base
    } else if drop_all {
        add.or(if add_all { Set::all() } else { Set::default() })
            .without(dropped)
    } else {
        base.or(add).without(dropped)
    };
    let wanted = wanted.or(ambient.without(dropped));
    let bounding = wanted.and(policy.grantable);
    let ambient = ambient.and(bounding);
    // A user that is not root keeps only what is ambient (CVE-2018-1000400).
    let kept = if policy.root || policy.inheritable {
        bounding
    } else {
        ambient
    };
    let inheritable = if policy.inheritable {
        bounding
    } else {
        ambient
    };
    Ok(Sets {
        sets: oci::Capabilities {
            bounding: bounding.names(),
            effective: kept.names(),
            inheritable: inheritable.names(),
            permitted: kept.names(),
            ambient: ambient.names(),
        },
        refused: wanted.without(policy.grantable),
        bounding,
    })
}

fn split_all(names: &[String]) -> Result<(bool, Set), Error> {
    let is_all = |name: &&String| matches!(name.to_ascii_uppercase().as_str(), "ALL" | "CAP_ALL");
    let (all, named): (Vec<_>, Vec<_>) = names.iter().partition(is_all);
    Ok((!all.is_empty(), Set::parse(&named)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sets(add: &[&str], drop: &[&str], root: bool, privileged: bool) -> Sets {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let request = Request {
            add: owned(add),
            drop: owned(drop),
            ambient: Vec::new(),
        };
        let defaults = ["CHOWN".to_owned(), "KILL".to_owned()];
        let grantable = Set::all().without(Set::parse(&["SYS_RESOURCE"]).unwrap());
        resolve(
            &request,
            Policy {
                defaults: &defaults,
                privileged,
                inheritable: false,
                root,
                grantable,
            },
        )
        .unwrap()
    }

    #[test]
    fn add_and_drop_apply_to_the_defaults() {
        for (add, drop, wanted) in [
            (&[][..], &[][..], &["CAP_CHOWN", "CAP_KILL"][..]),
            (&["net_raw"], &["CAP_KILL"], &["CAP_CHOWN", "CAP_NET_RAW"]),
            (&["NET_RAW"], &["ALL"], &["CAP_NET_RAW"]),
            (&[], &["ALL"], &[]),
        ] {
            assert_eq!(
                sets(add, drop, true, false).sets.bounding,
                wanted,
                "+{add:?} -{drop:?}"
            );
        }
        let all_but_chown = sets(&["ALL"], &["CHOWN"], true, false).bounding;
        assert_eq!(all_but_chown.names().len(), NAMES.len() - 2);
    }

    #[test]
    fn nothing_is_inheritable_and_a_plain_user_holds_nothing() {
        let root = sets(&[], &[], true, false).sets;
        assert_eq!(
            (
                root.inheritable.len(),
                root.ambient.len(),
                root.effective.len()
            ),
            (0, 0, 2)
        );
        let user = sets(&[], &[], false, false).sets;
        assert_eq!(
            (
                user.bounding.len(),
                user.effective.len(),
                user.permitted.len()
            ),
            (2, 0, 0)
        );
    }

    #[test]
    fn what_the_daemon_lacks_is_left_out_and_told() {
        let sets = sets(&[], &[], true, true);
        assert_eq!(sets.refused.names(), ["CAP_SYS_RESOURCE"]);
        assert!(!sets.bounding.has("CAP_SYS_RESOURCE") && sets.bounding.has("CAP_SYS_ADMIN"));
    }

    #[test]
    fn an_unknown_name_is_refused() {
        assert_eq!(
            Set::parse(&["CAP_NOPE"]),
            Err(Error::UnknownCapability("CAP_NOPE".into()))
        );
    }
}
