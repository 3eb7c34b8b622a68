//! Profile files, in the format of containers-common's and Docker's `seccomp.json`: the OCI
//! filter, with rules that hold only for some capabilities, architectures or kernels.

use serde::Deserialize;

use super::{Surroundings, native_architectures};
use crate::{Error, limits, oci};

/// A parsed profile file.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Profile {
    default_action: String,
    #[serde(default)]
    default_errno_ret: Option<u32>,
    #[serde(default)]
    architectures: Vec<String>,
    #[serde(default)]
    arch_map: Vec<ArchMap>,
    #[serde(default)]
    flags: Vec<String>,
    #[serde(default)]
    syscalls: Vec<Rule>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap {
    architecture: String,
    #[serde(default)]
    sub_architectures: Option<Vec<String>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    #[serde(default)]
    names: Vec<String>,
    /// Older profiles name one call.
    #[serde(default)]
    name: String,
    action: String,
    #[serde(default)]
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<oci::SyscallArg>>,
    #[serde(default)]
    includes: Condition,
    #[serde(default)]
    excludes: Condition,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Condition {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: String,
}

impl Profile {
    /// Reads a profile file's text.
    ///
    /// # Errors
    /// [`Error::Seccomp`].
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        if text.len() > limits::PROFILE_BYTES {
            return Err(Error::Seccomp(format!(
                "larger than {} bytes",
                limits::PROFILE_BYTES
            )));
        }
        let profile: Self =
            serde_json::from_slice(text).map_err(|wrong| Error::Seccomp(wrong.to_string()))?;
        if !profile.architectures.is_empty() && !profile.arch_map.is_empty() {
            return Err(Error::Seccomp(
                "both architectures and archMap are given".to_owned(),
            ));
        }
        Ok(profile)
    }

    /// The filter for one container.
    #[must_use]
    pub fn filter(&self, surroundings: Surroundings) -> oci::Seccomp {
        let native = native_architectures();
        let mapped = self.arch_map.iter().find(|map| {
            native
                .first()
                .is_some_and(|first| *first == map.architecture)
        });
        let architectures = match mapped {
            Some(map) => {
                let others = map.sub_architectures.iter().flatten();
                std::iter::once(&map.architecture)
                    .chain(others)
                    .cloned()
                    .collect()
            }
            None => self.architectures.clone(),
        };
        let rules = self
            .syscalls
            .iter()
            .filter(|rule| rule.applies(surroundings));
        oci::Seccomp {
            default_action: self.default_action.clone(),
            default_errno_ret: self.default_errno_ret,
            architectures,
            flags: self.flags.clone(),
            listener_path: String::new(),
            syscalls: rules.map(Rule::resolved).collect(),
        }
    }
}

impl Rule {
    fn applies(&self, surroundings: Surroundings) -> bool {
        self.includes.included(surroundings) && !self.excludes.excluded(surroundings)
    }

    fn resolved(&self) -> oci::Syscall {
        let mut names = self.names.clone();
        if names.is_empty() {
            names.push(self.name.clone());
        }
        oci::Syscall {
            names,
            action: self.action.clone(),
            errno_ret: self.errno_ret,
            args: self.args.clone().unwrap_or_default(),
        }
    }
}

impl Condition {
    /// All capabilities, one of the architectures, at least the kernel.
    fn included(&self, surroundings: Surroundings) -> bool {
        let caps = self
            .caps
            .iter()
            .flatten()
            .all(|cap| surroundings.bounding.has(cap));
        let arches = self
            .arches
            .as_ref()
            .is_none_or(|arches| arches.is_empty() || arches.iter().any(|arch| is_native(arch)));
        caps && arches
            && self
                .kernel()
                .is_none_or(|kernel| surroundings.kernel >= kernel)
    }

    /// Any capability, any architecture, or the kernel.
    fn excluded(&self, surroundings: Surroundings) -> bool {
        let caps = self
            .caps
            .iter()
            .flatten()
            .any(|cap| surroundings.bounding.has(cap));
        let arches = self.arches.iter().flatten().any(|arch| is_native(arch));
        caps || arches
            || self
                .kernel()
                .is_some_and(|kernel| surroundings.kernel >= kernel)
    }

    fn kernel(&self) -> Option<(u32, u32)> {
        let (major, minor) = self.min_kernel.split_once('.')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    }
}

/// Whether `arch`, a name as Go has it, is this machine's.
fn is_native(arch: &str) -> bool {
    match std::env::consts::ARCH {
        "x86_64" => matches!(arch, "amd64" | "x86" | "x32"),
        "aarch64" => matches!(arch, "arm64" | "arm"),
        "s390x" => matches!(arch, "s390x" | "s390"),
        "powerpc64" => arch == "ppc64le",
        other => arch == other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capabilities::Set;

    #[test]
    fn conditions_select_rules() {
        let text = br#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":38,
            "archMap":[{"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86"]}],
            "syscalls":[
              {"names":["read"],"action":"SCMP_ACT_ALLOW","args":null},
              {"names":["mount"],"action":"SCMP_ACT_ALLOW","includes":{"caps":["CAP_SYS_ADMIN"]}},
              {"names":["clone"],"action":"SCMP_ACT_ALLOW","excludes":{"caps":["CAP_SYS_ADMIN"]}},
              {"names":["ptrace"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"4.8"}},
              {"names":["far"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"99.0"}},
              {"name":"old","action":"SCMP_ACT_ALLOW"}]}"#;
        let profile = Profile::parse(text).unwrap();
        let names = |caps: &[&str]| {
            let bounding = Set::parse(caps).unwrap();
            let filter = profile.filter(Surroundings {
                bounding,
                kernel: (6, 1),
            });
            filter
                .syscalls
                .into_iter()
                .flat_map(|rule| rule.names)
                .collect::<Vec<_>>()
        };
        assert_eq!(names(&[]), ["read", "clone", "ptrace", "old"]);
        assert_eq!(names(&["SYS_ADMIN"]), ["read", "mount", "ptrace", "old"]);
    }

    #[test]
    fn what_is_no_profile_is_refused() {
        for text in ["", "[]", "{}", r#"{"defaultAction":1}"#] {
            assert!(Profile::parse(text.as_bytes()).is_err(), "{text:?}");
        }
    }
}
