//! Names of slices, and the cgroups that they stand for (`systemd.slice(5)`).

use std::fmt;
use std::str::FromStr;

/// A slice's name, such as `kubepods-burstable.slice`. Every dash goes one level down;
/// `-.slice` is the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice(String);

/// A name that no slice has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no name of a slice")]
pub struct BadSlice(pub String);

impl Slice {
    /// The name, with its ending.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0
    }

    /// The path of its cgroup, absolute; empty for the root.
    #[must_use]
    pub fn cgroup(&self) -> String {
        let stem = match &*self.0 {
            "-.slice" => "",
            name => name.strip_suffix(".slice").unwrap_or_default(),
        };
        let mut path = String::new();
        let ends = stem.match_indices('-').map(|(index, _)| index);
        for end in ends.chain([stem.len()]) {
            if let Some(part) = stem.get(..end).filter(|part| !part.is_empty()) {
                path.push('/');
                path.push_str(part);
                path.push_str(".slice");
            }
        }
        path
    }
}

impl FromStr for Slice {
    type Err = BadSlice;

    fn from_str(text: &str) -> Result<Self, BadSlice> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || ":-_.\\".contains(c);
        let stem = text.strip_suffix(".slice").unwrap_or_default();
        let dashes = stem.starts_with('-') || stem.ends_with('-') || stem.contains("--");
        // systemd: a unit's name has at most 255 characters.
        let good = !stem.is_empty() && text.len() <= 255 && text.chars().all(allowed);
        if text == "-.slice" || good && !dashes {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadSlice(text.to_owned()))
        }
    }
}

impl fmt::Display for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dash_goes_one_level_down() {
        for (name, cgroup) in [
            ("-.slice", Some("")),
            ("system.slice", Some("/system.slice")),
            ("a-b-c.slice", Some("/a.slice/a-b.slice/a-b-c.slice")),
            ("pod_1.slice", Some("/pod_1.slice")),
            ("", None),
            (".slice", None),
            ("a.scope", None),
            ("a--b.slice", None),
            ("-a.slice", None),
            ("a-.slice", None),
            ("a/b.slice", None),
        ] {
            let found = name.parse::<Slice>().ok().map(|slice| slice.cgroup());
            assert_eq!(found.as_deref(), cgroup, "{name:?}");
        }
    }
}
