//! Ids of containers and execs.

use std::fmt;

use crate::limits;

/// The id of a container or an exec: letters, digits, `_`, `.` and `-`, not starting with a dot
/// or a dash. So it is a safe file name and a safe argument of a runtime.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(String);

/// What was given is no [`Id`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadId(pub String);

impl Id {
    /// The id's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<&str> for Id {
    type Error = BadId;

    fn try_from(raw: &str) -> Result<Self, BadId> {
        let inner = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'.' | b'-');
        let starts = raw
            .bytes()
            .next()
            .is_some_and(|c| c.is_ascii_alphanumeric() || c == b'_');
        if starts && raw.len() <= limits::ID_BYTES && raw.bytes().all(inner) {
            Ok(Self(raw.to_owned()))
        } else {
            Err(BadId(raw.chars().take(limits::ID_BYTES).collect()))
        }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for BadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is no id", self.0)
    }
}

impl std::error::Error for BadId {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_safe_as_file_names_and_arguments() {
        let long = "a".repeat(limits::ID_BYTES);
        let longer = "a".repeat(limits::ID_BYTES + 1);
        for (raw, good) in [
            ("4f2a", true),
            ("web_1.x-y", true),
            (long.as_str(), true),
            (longer.as_str(), false),
            ("", false),
            (".", false),
            ("..", false),
            ("-rf", false),
            ("a/b", false),
            ("a b", false),
            ("ä", false),
        ] {
            assert_eq!(Id::try_from(raw).is_ok(), good, "{raw:?}");
        }
    }
}
