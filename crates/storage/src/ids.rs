//! IDs: names of directories in the store, so they hold nothing that could leave it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, limits};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Box<str>);

        impl $name {
            /// The ID as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;
            fn try_from(id: String) -> Result<Self, Error> {
                if is_file_name(&id) { Ok(Self(id.into())) } else { Err(Error::Invalid { what: $what, value: id }) }
            }
        }

        impl FromStr for $name {
            type Err = Error;
            fn from_str(id: &str) -> Result<Self, Error> {
                id.to_owned().try_into()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0.into()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id!(
    /// Of an image: the hexadecimal digest of its configuration.
    ImageId, "image ID"
);
id!(
    /// Of a layer: for an image's layers derived from the chain of diff IDs, else random.
    LayerId, "layer ID"
);
id!(
    /// Of a container or of a pod sandbox's record.
    ContainerId, "container ID"
);

fn is_file_name(id: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=limits::ID_BYTES).contains(&id.len()) && !id.starts_with('.') && id.bytes().all(allowed)
}

impl LayerId {
    /// The ID that containers/image gives a layer: its diff ID on its own, or the digest of
    /// `parent's ID + diff ID`.
    pub(crate) fn derived(parent: Option<&Self>, diff_id: &crate::Digest) -> Self {
        let id = match parent {
            None => diff_id.hex().to_owned(),
            Some(parent) => crate::Digest::of(format!("{parent}+{}", diff_id.hex()).as_bytes())
                .hex()
                .to_owned(),
        };
        Self(id.into())
    }

    /// The ID that containers/image gives a layer that is identified by its table of contents.
    pub(crate) fn by_toc(parent: Option<&Self>, toc: &crate::Digest) -> Self {
        let parent = parent.map_or("", Self::as_str);
        let id = crate::Digest::of(format!("{parent}+@TOC={}", toc.hex()).as_bytes());
        Self(id.hex().into())
    }

    /// An ID that nobody has.
    pub(crate) fn random() -> Self {
        Self(random_hex().into())
    }
}

/// 64 random hexadecimal digits.
pub(crate) fn random_hex() -> String {
    random_bytes::<32>()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Bytes of the kernel's generator.
pub(crate) fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).expect("the generator was seeded when the process started");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_stay_in_their_directory() {
        for (id, good) in [
            ("a", true),
            ("0f".repeat(32).as_str(), true),
            ("k8s_x-1.2", true),
            ("", false),
            (".", false),
            ("..", false),
            (".hidden", false),
            ("a/b", false),
            ("a\0", false),
            ("x".repeat(256).as_str(), false),
        ] {
            assert_eq!(id.parse::<LayerId>().is_ok(), good, "{id:?}");
        }
    }
}
