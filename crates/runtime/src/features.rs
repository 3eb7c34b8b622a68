//! What a runtime says of itself (runtime-spec, features.md).

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use sys::spawn::{Program, run};

/// The version that every runtime of the last years takes.
const OLDEST: &str = "1.0.2";
/// The version that our specs are written for.
const OURS: &str = "1.2.0";
/// Annotations by which runtimes that copy themselves tell their version.
const COPYING: [&str; 2] = ["run.oci.crun.version", "org.opencontainers.runc.version"];
/// How long a runtime may take to describe itself.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What a runtime can do, as far as we ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Features {
    /// `ociVersion` to write: the newest that both sides know.
    pub oci_version: String,
    /// Recursive read-only mounts.
    pub recursive_readonly: bool,
    /// User namespaces.
    pub user_namespaces: bool,
    /// It starts by making a sealed copy of itself, unless it is one: crun and runc.
    pub copies_itself: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Document {
    oci_version_max: String,
    mount_options: Vec<String>,
    linux: Linux,
    annotations: HashMap<String, serde_json::Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Linux {
    namespaces: Vec<String>,
}

impl Features {
    /// Asks the runtime at `path`. One that has no `features` command, as Debian 12's crun, gets
    /// what the oldest can do.
    #[must_use]
    pub fn ask(path: &Path) -> Self {
        let asked = run(&Program::new(path, TIMEOUT).arg("features"));
        let text = asked
            .ok()
            .filter(|output| output.status.success())
            .map(|output| output.stdout);
        Self::parse(text.as_deref().unwrap_or_default())
    }

    pub(crate) fn parse(text: &[u8]) -> Self {
        let document: Document = serde_json::from_slice(text).unwrap_or_default();
        let theirs = version(&document.oci_version_max);
        let both = theirs
            .min(version(OURS))
            .max(version(OLDEST))
            .unwrap_or((1, 0, 2));
        Self {
            oci_version: format!("{}.{}.{}", both.0, both.1, both.2),
            recursive_readonly: document.mount_options.iter().any(|option| option == "rro"),
            copies_itself: COPYING
                .iter()
                .any(|version| document.annotations.contains_key(*version)),
            user_namespaces: document.linux.namespaces.iter().any(|kind| kind == "user"),
        }
    }
}

/// Three numbers; what follows a `-` or `+` is left out.
fn version(text: &str) -> Option<(u32, u32, u32)> {
    let numbers = text.split(['-', '+']).next()?;
    let mut numbers = numbers.split('.').map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??, numbers.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_that_both_know_is_used() {
        for (text, wanted) in [
            ("", "1.0.2"),
            ("garbage", "1.0.2"),
            (r#"{"ociVersionMax":"1.0.2-dev"}"#, "1.0.2"),
            (r#"{"ociVersionMax":"1.1.0+dev"}"#, "1.1.0"),
            (r#"{"ociVersionMax":"1.9.0"}"#, "1.2.0"),
        ] {
            assert_eq!(
                Features::parse(text.as_bytes()).oci_version,
                wanted,
                "{text}"
            );
        }
    }

    #[test]
    fn options_are_found() {
        let text = br#"{"ociVersionMax":"1.2.0","mountOptions":["ro","rro"],"linux":{"namespaces":["mount","user"]}}"#;
        let features = Features::parse(text);
        assert!(features.recursive_readonly && features.user_namespaces);
    }
}
