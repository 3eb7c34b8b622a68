//! `TRANSPORT:PATH[:WHICH]`, or `containers-storage:[DRIVER@ROOT]IMAGE` (containers-transports(5)).

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use storage::Driver;

use crate::error::{Error, Result};

/// Files or a store of the node that hold images, and which of them is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// How the files are laid out.
    pub transport: Transport,
    /// The directory or archive, or the store's graph root; absolute.
    pub path: PathBuf,
    /// A name, a tag or `@` with a number from 0 on, where there may be several images; of a store's a
    /// name or an ID.
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
    /// Another store of containers/storage, podman's for one.
    ContainersStorage(Driver),
}

const CONTAINERS_STORAGE: &str = "containers-storage";

impl Transport {
    const OF_FILES: [Self; 4] = [Self::Oci, Self::OciArchive, Self::DockerArchive, Self::Dir];

    /// Its name in references and in `policy.json`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Oci => "oci",
            Self::OciArchive => "oci-archive",
            Self::DockerArchive => "docker-archive",
            Self::Dir => "dir",
            Self::ContainersStorage(_) => CONTAINERS_STORAGE,
        }
    }
}

impl Location {
    /// Whether a text has one of these transports in front.
    #[must_use]
    pub fn is_one(text: &str) -> bool {
        split(text).is_some() || in_store(text).is_some()
    }

    /// The path without links, as policies have it.
    pub(super) fn real_path(&self) -> Result<String> {
        let real = self.path.canonicalize();
        let real = real.map_err(|error| self.error(error.to_string()))?;
        let real = real.into_os_string().into_string();
        real.map_err(|_| self.error("its path is not UTF-8"))
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
    Transport::OF_FILES.into_iter().find_map(|transport| {
        let rest = text.strip_prefix(transport.name())?.strip_prefix(':')?;
        Some((transport, rest))
    })
}

/// What follows `containers-storage:`.
fn in_store(text: &str) -> Option<&str> {
    text.strip_prefix(CONTAINERS_STORAGE)?.strip_prefix(':')
}

impl Location {
    /// Reads `[DRIVER@ROOT+RUNROOT:OPTIONS]IMAGE`; driver, run root and options may be missing, and the
    /// last two are of no use to who only reads.
    fn of_store(text: &str) -> Result<Self, String> {
        let words = "a store is named by [DRIVER@ROOT], an image of it follows";
        let inner = text.strip_prefix('[').and_then(|rest| rest.split_once(']'));
        let (store, which) = inner.ok_or(words)?;
        let (driver, places) = match store.split_once('@') {
            Some((driver, places)) => (driver.parse()?, places),
            None => (Driver::Overlay, store),
        };
        let places = places.split_once(':').map_or(places, |(places, _)| places);
        let root = places.split_once('+').map_or(places, |(root, _)| root);
        if !root.starts_with('/') {
            return Err("the path is not absolute".to_owned());
        }
        if which.is_empty() {
            return Err(words.to_owned());
        }
        Ok(Self {
            transport: Transport::ContainersStorage(driver),
            path: root.into(),
            which: Some(which.to_owned()),
        })
    }
}

impl FromStr for Location {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = |reason: &str| Error::BadReference {
            reference: text.to_owned(),
            reason: reason.to_owned(),
        };
        if let Some(in_store) = in_store(text) {
            return Self::of_store(in_store).map_err(|reason| bad(&reason));
        }
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
        let (name, path) = (self.transport.name(), self.path.display());
        match (self.transport, &self.which) {
            (Transport::ContainersStorage(driver), which) => {
                let which = which.as_deref().unwrap_or_default();
                write!(f, "{name}:[{}@{path}]{which}", driver.name())
            }
            (_, Some(which)) => write!(f, "{name}:{path}:{which}"),
            (_, None) => write!(f, "{name}:{path}"),
        }
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
            (
                "containers-storage:[vfs@/a]b.io/c:1",
                Transport::ContainersStorage(Driver::Vfs),
                "/a",
                Some("b.io/c:1"),
            ),
        ] {
            let location: Location = text.parse().unwrap();
            assert_eq!(location.transport, transport);
            assert_eq!(location.path, std::path::Path::new(path));
            assert_eq!(location.which.as_deref(), which);
            assert_eq!(location.to_string(), text);
        }
    }

    #[test]
    fn a_store_is_named_as_peers_do() {
        for text in [
            "containers-storage:[overlay@/a]b:1",
            "containers-storage:[/a]b:1",
            "containers-storage:[overlay@/a+/run/a]b:1",
            "containers-storage:[overlay@/a+/run/a:overlay.mountopt=nodev,x=[y]b:1",
        ] {
            let location: Location = text.parse().unwrap();
            assert_eq!(location.to_string(), "containers-storage:[overlay@/a]b:1");
        }
    }

    #[test]
    fn others_are_refused() {
        for text in [
            "containers-storage:b:1",
            "containers-storage:[btrfs@/a]b:1",
            "containers-storage:[@/a]b:1",
            "containers-storage:[a]b:1",
            "containers-storage:[overlay@/a]",
            "containers-storage:[overlay@/a",
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
        assert!(Location::is_one("containers-storage:x"));
    }
}
