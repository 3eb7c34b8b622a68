//! Which of an index's images fits the node.

use serde::{Deserialize, Serialize};

/// An operating system and an architecture, in Go's words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`, `arm`, …
    pub architecture: String,
    /// `v8`, `v7`, …; empty where there is only one.
    pub variant: String,
}

impl Platform {
    /// This node's.
    #[must_use]
    pub fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", ""),
            "x86" => ("386", ""),
            "aarch64" => ("arm64", "v8"),
            "arm" => ("arm", "v7"),
            "powerpc64" if cfg!(target_endian = "little") => ("ppc64le", ""),
            "loongarch64" => ("loong64", ""),
            other => (other, ""),
        };
        Self {
            os: std::env::consts::OS.to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.to_owned(),
        }
    }

    /// How well an image of `other` runs here: lower is better, `None` is not at all. Without a
    /// variant anything of the architecture runs, but after what says one.
    pub(crate) fn rank(&self, other: &Self) -> Option<u32> {
        if self.os != other.os || self.architecture != other.architecture {
            return None;
        }
        if self.variant == other.variant {
            return Some(0);
        }
        let number = |variant: &str| {
            variant
                .strip_prefix('v')
                .and_then(|n| n.parse::<u32>().ok())
        };
        match (number(&self.variant), number(&other.variant)) {
            // arm64 without a variant is v8.
            (Some(8), None) if other.variant.is_empty() && self.architecture == "arm64" => Some(0),
            // An older instruction set runs as well.
            (Some(here), Some(there)) if there < here => Some(here - there),
            (_, None) if other.variant.is_empty() => Some(100),
            (None, Some(1)) if self.variant.is_empty() => Some(1),
            _ => None,
        }
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        let mut parts = text.split('/').map(str::to_owned);
        let mut next = || parts.next().unwrap_or_default();
        Platform {
            os: next(),
            architecture: next(),
            variant: next(),
        }
    }

    #[test]
    fn the_nearest_older_variant_ranks_first() {
        for (here, there, rank) in [
            ("linux/amd64", "linux/amd64", Some(0)),
            ("linux/amd64", "linux/arm64", None),
            ("linux/amd64", "windows/amd64", None),
            ("linux/amd64", "linux/amd64/v1", Some(1)),
            ("linux/amd64", "linux/amd64/v3", None),
            ("linux/arm64/v8", "linux/arm64", Some(0)),
            ("linux/arm/v7", "linux/arm/v6", Some(1)),
            ("linux/arm/v7", "linux/arm/v5", Some(2)),
            ("linux/arm/v6", "linux/arm/v7", None),
            ("linux/arm/v7", "linux/arm", Some(100)),
        ] {
            assert_eq!(
                platform(here).rank(&platform(there)),
                rank,
                "{here} on {there}"
            );
        }
    }
}
