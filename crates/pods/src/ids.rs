//! Identifiers: 64 lower-case hexadecimal digits, as CRI-O has them, a type for each kind.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(String);

        impl $name {
            /// Makes a new one, of 256 random bits.
            #[must_use]
            pub fn random() -> Self {
                Self(sys::random::bytes::<32>().iter().map(|byte| format!("{byte:02x}")).collect())
            }

            /// Takes `text` if it has the form of an id.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
                (text.len() == 64 && text.bytes().all(hex)).then(|| Self(text.to_owned()))
            }

            /// The id's text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<Path> for $name {
            fn as_ref(&self) -> &Path {
                Path::new(&self.0)
            }
        }
    };
}

id! {
    /// A pod sandbox.
    PodId
}
id! {
    /// A container.
    ContainerId
}
