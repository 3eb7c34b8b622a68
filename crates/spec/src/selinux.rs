//! SELinux labels of containers: `user:role:type:level` (selinux(8)), the policy's defaults
//! (`lxc_contexts`), and what a request changes in them.

use std::collections::HashSet;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Categories of a level in multi-category security (mcstransd(8)).
const CATEGORIES: u32 = 1024;
/// Bytes of the policy's file that are looked at.
pub const MAX_FILE_BYTES: usize = 64 * 1024;

/// A label in its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    user: String,
    role: String,
    kind: String,
    level: String,
}

impl Label {
    /// Reads a label; `None` for what isn't one of four parts.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(4, ':').map(str::to_owned);
        let label = Self {
            user: parts.next()?,
            role: parts.next()?,
            kind: parts.next()?,
            level: parts.next()?,
        };
        let all = [&label.user, &label.role, &label.kind, &label.level];
        all.iter().all(|part| !part.is_empty()).then_some(label)
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            user,
            role,
            kind,
            level,
        } = self;
        write!(f, "{user}:{role}:{kind}:{level}")
    }
}

/// What containers are labelled where nobody says otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defaults {
    /// Of processes.
    pub process: Label,
    /// Of files.
    pub file: Label,
}

impl Defaults {
    /// Reads the policy's `lxc_contexts`: `process = "…"` and `file = "…"`. `None` where one of them
    /// is missing: such a policy has no containers.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let value = |wanted: &str| {
            let mut lines = text.lines().filter_map(|line| line.split_once('='));
            let found = lines.find(|(key, _)| key.trim() == wanted)?;
            Label::parse(found.1.trim().trim_matches('"'))
        };
        Some(Self {
            process: value("process")?,
            file: value("file")?,
        })
    }
}

/// The parts that a request names; empty ones are left as they are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Request {
    /// User.
    pub user: String,
    /// Role.
    pub role: String,
    /// Type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Level.
    pub level: String,
}

impl Request {
    /// Whether nothing is named.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// This one, and what it doesn't name from `other`.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        let first = |one: &String, two: &String| if one.is_empty() { two } else { one }.clone();
        Self {
            user: first(&self.user, &other.user),
            role: first(&self.role, &other.role),
            kind: first(&self.kind, &other.kind),
            level: first(&self.level, &other.level),
        }
    }
}

/// Labels of a pod or container; empty ones for none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Labels {
    /// Of its processes.
    pub process: String,
    /// Of its files.
    pub mount: String,
    /// A pod's level, also where nothing of its own is labelled: its containers have it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub level: String,
}

impl Labels {
    /// The defaults with what `request` names: user and level in both, role and type in that of
    /// processes alone, as CRI-O does. Without a level in the request it is `level`.
    #[must_use]
    pub fn of(defaults: &Defaults, request: &Request, level: &str) -> Self {
        let (mut process, mut mount) = (defaults.process.clone(), defaults.file.clone());
        let put = |part: &mut String, asked: &str| {
            if !asked.is_empty() {
                asked.clone_into(part);
            }
        };
        let level = if request.level.is_empty() {
            level
        } else {
            &request.level
        };
        for label in [&mut process, &mut mount] {
            put(&mut label.user, &request.user);
            put(&mut label.level, level);
        }
        put(&mut process.role, &request.role);
        put(&mut process.kind, &request.kind);
        Self {
            process: process.to_string(),
            mount: mount.to_string(),
            level: process.level,
        }
    }

    /// What a container takes over from its pod: its level, and the other parts of its processes'
    /// label where that has one.
    #[must_use]
    pub fn as_request(&self) -> Request {
        let level = self.level.clone();
        match Label::parse(&self.process) {
            None => Request {
                level,
                ..Request::default()
            },
            Some(label) => Request {
                user: label.user,
                role: label.role,
                kind: label.kind,
                level,
            },
        }
    }
}

/// A level of two categories that is not among `taken`, from `random` numbers.
pub fn free_level(taken: &HashSet<String>, mut random: impl FnMut() -> u32) -> String {
    loop {
        let (one, two) = (random() % CATEGORIES, random() % CATEGORIES);
        if one == two {
            continue;
        }
        let level = format!("s0:c{},c{}", one.min(two), one.max(two));
        if !taken.contains(&level) {
            return level;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTEXTS: &str = "process = \"system_u:system_r:container_t:s0\"\n\
                            content = \"system_u:object_r:virt_var_lib_t:s0\"\n\
                            file = \"system_u:object_r:container_file_t:s0\"\n\
                            ro_file=\"system_u:object_r:container_ro_file_t:s0\"\n";

    #[test]
    fn a_request_changes_what_it_names() {
        let defaults = Defaults::parse(CONTEXTS).unwrap();
        let labels = Labels::of(&defaults, &Request::default(), "s0:c1,c2");
        assert_eq!(labels.process, "system_u:system_r:container_t:s0:c1,c2");
        assert_eq!(labels.mount, "system_u:object_r:container_file_t:s0:c1,c2");
        let request = Request {
            kind: "spc_t".into(),
            level: "s0:c7,c9".into(),
            ..Request::default()
        };
        let own = Labels::of(&defaults, &request, "s0:c1,c2");
        assert_eq!(own.process, "system_u:system_r:spc_t:s0:c7,c9");
        assert_eq!(own.mount, "system_u:object_r:container_file_t:s0:c7,c9");
        // A container has its pod's, but for what it names itself.
        let request = Request {
            kind: "other_t".into(),
            ..Request::default()
        };
        let container = Labels::of(&defaults, &request.or(&own.as_request()), "s0:c1,c2");
        assert_eq!(container.process, "system_u:system_r:other_t:s0:c7,c9");
    }

    #[test]
    fn a_policy_without_containers_has_no_labels() {
        assert_eq!(Defaults::parse("file = \"a:b:c:s0\""), None);
        assert_eq!(
            Defaults::parse("process = \"a:b\"\nfile = \"a:b:c:s0\""),
            None
        );
        assert_eq!(Label::parse("a:b:c:s0:c1.c2").unwrap().level, "s0:c1.c2");
    }

    #[test]
    fn a_level_is_nobody_elses() {
        let taken = HashSet::from(["s0:c1,c2".to_owned()]);
        let mut numbers = [2, 1, 5, 5, 1027, 4].into_iter();
        let level = free_level(&taken, || numbers.next().unwrap());
        assert_eq!(level, "s0:c3,c4");
    }
}
