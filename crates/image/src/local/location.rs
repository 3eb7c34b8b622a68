//! `TRANSPORT:PATH[:WHICH]` (containers-transports(5)).

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::error::{Error, Result};

/// Files of the node that hold images, and which of them is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// How the files are laid out.
    pub transport: Transport,
    /// The directory or archive; absolute.
    pub path: PathBuf,
    /// A name, a tag or `@` with a number from 0 on, where there may be several images.
    pub which: Option<String>,
}

/// How an image is laid out in files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A directory with `index.json` and `blobs` (image-layout.md of the OCI image specification).
    Oci,
    /// The same as a tar.
    OciArchive,
    /// What `docker save` writes: a tar with `manifest.json`.
    DockerArchive,
    /// A directory with `manifest.json` and blobs side by side, as skopeo writes it.
    Dir,
}

impl Transport {
    const ALL: [Self; 4] = [Self::Oci, Self::OciArchive, Self::DockerArchive, Self::Dir];

    /// Its name in references and in `policy.json`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Oci => "oci",
            Self::OciArchive => "oci-archive",
            Self::DockerArchive => "docker-archive",
            Self::Dir => "dir",
        }
    }
}

impl Location {
    /// Whether a text has one of these transports in front.
    #[must_use]
    pub fn is_one(text: &str) -> bool {
        split(text).is_some()
    }

    /// Asks a policy about these files.
    pub(crate) fn ask<T>(
        &self,
        ask: impl FnOnce(&trust::Files<'_>) -> Result<T, trust::Refused>,
    ) -> Result<T> {
        let real = self.path.canonicalize();
        let real = real.map_err(|error| self.error(error.to_string()))?;
        let Some(path) = real.to_str() else {
            return Err(self.error("its path is not UTF-8"));
        };
        Ok(ask(&trust::Files {
            transport: self.transport.name(),
            path,
            which: self.which.as_deref(),
        })?)
    }

    /// The one of a bundle's images that is meant.
    pub(super) fn choose<'a, T>(
        &self,
        items: &'a [T],
        names: impl Fn(&T) -> Vec<String>,
        meant: impl Fn(&str) -> String,
    ) -> Result<&'a T, String> {
        let found = match (&self.which, items) {
            (None, [only]) => Some(only),
            (None, []) => return Err("no image in it".to_owned()),
            (None, several) => {
                let names: Vec<_> = several.iter().flat_map(names).collect();
                let last = several.len() - 1;
                return Err(format!(
                    "several images in it: add which one, of {names:?} or @0 to @{last}"
                ));
            }
            (Some(which), items) => match which.strip_prefix('@') {
                Some(number) => number.parse().ok().and_then(|at: usize| items.get(at)),
                None => items
                    .iter()
                    .find(|item| names(item).contains(&meant(which))),
            },
        };
        found.ok_or_else(|| {
            let which = self.which.as_deref().unwrap_or_default();
            format!("no image {which:?} in it")
        })
    }

    pub(crate) fn error(&self, reason: impl Into<String>) -> Error {
        Error::Local {
            location: self.to_string(),
            reason: reason.into(),
        }
    }
}

fn split(text: &str) -> Option<(Transport, &str)> {
    Transport::ALL.into_iter().find_map(|transport| {
        let rest = text.strip_prefix(transport.name())?.strip_prefix(':')?;
        Some((transport, rest))
    })
}

impl FromStr for Location {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = |reason: &str| Error::BadReference {
            reference: text.to_owned(),
            reason: reason.to_owned(),
        };
        let (transport, rest) =
            split(text).ok_or_else(|| bad("it names no transport of local files"))?;
        // A directory of that kind has one image: a colon is part of its path.
        let (path, which) = match (transport, rest.split_once(':')) {
            (Transport::Dir, _) | (_, None) => (rest, None),
            (_, Some((path, which))) => (path, Some(which)),
        };
        if which == Some("") {
            return Err(bad("nothing after the colon"));
        }
        if !path.starts_with('/') {
            return Err(bad("the path is not absolute"));
        }
        Ok(Self {
            transport,
            path: path.into(),
            which: which.map(str::to_owned),
        })
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.transport.name(), self.path.display())?;
        self.which
            .as_ref()
            .map_or(Ok(()), |which| write!(f, ":{which}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_read_and_written_alike() {
        for (text, transport, path, which) in [
            ("oci:/a/b", Transport::Oci, "/a/b", None),
            ("oci:/a/b:v1", Transport::Oci, "/a/b", Some("v1")),
            (
                "oci-archive:/a.tar:@1",
                Transport::OciArchive,
                "/a.tar",
                Some("@1"),
            ),
            (
                "docker-archive:/a.tar:localhost:5000/x:v1",
                Transport::DockerArchive,
                "/a.tar",
                Some("localhost:5000/x:v1"),
            ),
            ("dir:/a:b", Transport::Dir, "/a:b", None),
        ] {
            let location: Location = text.parse().unwrap();
            assert_eq!(location.transport, transport);
            assert_eq!(location.path, std::path::Path::new(path));
            assert_eq!(location.which.as_deref(), which);
            assert_eq!(location.to_string(), text);
        }
    }

    #[test]
    fn others_are_refused() {
        for text in [
            "busybox",
            "oci",
            "oci:",
            "oci:a",
            "docker-daemon:x",
            "docker://a.io/b",
            "oci:/a:",
        ] {
            assert!(text.parse::<Location>().is_err(), "{text}");
        }
        assert!(!Location::is_one("ocient/app:v1"));
        assert!(Location::is_one("dir:/a"));
    }
}
