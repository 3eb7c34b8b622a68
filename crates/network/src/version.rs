//! Versions of the CNI specification.

use std::fmt;

/// A version of the specification, by which commands and results differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(u8, u8, u8);

impl Version {
    /// What a configuration without `cniVersion` means.
    pub(crate) const OLDEST: Self = Self(0, 1, 0);
    /// Results list `ips` instead of `ip4` and `ip6`.
    pub(crate) const IP_LIST: Self = Self(0, 3, 0);
    /// DEL is given the result of ADD.
    pub(crate) const PREV_RESULT_ON_DEL: Self = Self(0, 4, 0);
    /// `ips` have no `version` any more.
    pub(crate) const IPS_WITHOUT_VERSION: Self = Self(1, 0, 0);
    /// GC and STATUS exist.
    pub(crate) const GC_AND_STATUS: Self = Self(1, 1, 0);

    const KNOWN: [Self; 7] = [
        Self(0, 1, 0),
        Self(0, 2, 0),
        Self(0, 3, 0),
        Self(0, 3, 1),
        Self(0, 4, 0),
        Self(1, 0, 0),
        Self(1, 1, 0),
    ];

    /// The known version with this text, or `None`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self::OLDEST);
        }
        Self::KNOWN
            .into_iter()
            .find(|known| known.to_string() == text)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_versions_parse_and_others_do_not() {
        for (text, known) in [
            ("", true),
            ("0.1.0", true),
            ("0.3.1", true),
            ("1.1.0", true),
            ("1.2.0", false),
            ("v1.0.0", false),
            ("1.0", false),
        ] {
            assert_eq!(Version::parse(text).is_some(), known, "{text:?}");
        }
        assert!(Version::parse("0.4.0") < Version::parse("1.0.0"));
    }
}
