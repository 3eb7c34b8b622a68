//! Where an image's signatures are looked for: `registries.d`.
//!
//! Source: `containers-registries.d(5)`. Unknown keys are let pass, as others do; a namespace that
//! stands in two files is an error.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::limits::{SOURCES_BYTES, SOURCES_FILES};
use crate::policy::Error;
use crate::scope::Name;

mod lookaside;

pub use lookaside::Lookaside;

/// Where signatures are where nothing is configured (containers/image, as root).
const DEFAULT: &str = "file:///var/lib/containers/sigstore";

/// The content of a directory `registries.d`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    default: Option<Namespace>,
    docker: BTreeMap<String, Namespace>,
}

#[derive(Deserialize)]
struct Content {
    #[serde(rename = "default-docker", default)]
    default: Option<Namespace>,
    #[serde(default)]
    docker: Option<BTreeMap<String, Namespace>>,
}

/// What is said of one namespace. Where signatures are written to is of no use here, but has to be
/// a string.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Namespace {
    lookaside: Option<String>,
    lookaside_staging: Option<String>,
    /// The older name of `lookaside`.
    sigstore: Option<String>,
    sigstore_staging: Option<String>,
    use_sigstore_attachments: Option<bool>,
}

impl Namespace {
    fn lookaside(&self) -> Option<&str> {
        let filled = |text: &&str| !text.is_empty();
        let newer = self.lookaside.as_deref().filter(filled);
        newer.or(self.sigstore.as_deref().filter(filled))
    }
}

impl Sources {
    /// Reads the files `*.yaml` of a directory; one that is not there is empty.
    ///
    /// # Errors
    /// A file can't be read, is too large or is not what it should be.
    pub fn load(dir: &Path) -> Result<Self, Error> {
        let mut all = Self::default();
        let read = |source| Error::Read {
            path: dir.to_owned(),
            source,
        };
        let entries = match std::fs::read_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(all),
            entries => entries.map_err(read)?,
        };
        let mut paths = Vec::new();
        for entry in entries.take(SOURCES_FILES) {
            let path = entry.map_err(read)?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "yaml")
            {
                paths.push(path);
            }
        }
        paths.sort();
        for path in paths {
            let Some(bytes) = content(&path)? else {
                continue;
            };
            let added = Self::parse(&bytes).and_then(|content| all.add(content));
            added.map_err(|reason| Error::Sources { path, reason })?;
        }
        Ok(all)
    }

    /// Reads one file's content.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
        let content: Option<Content> =
            serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        let content = content.unwrap_or(Content {
            default: None,
            docker: None,
        });
        Ok(Self {
            default: content.default,
            docker: content.docker.unwrap_or_default(),
        })
    }

    fn add(&mut self, other: Self) -> Result<(), String> {
        if other.default.is_some() && self.default.is_some() {
            return Err("\"default-docker\" is in another file, too".to_owned());
        }
        self.default = self.default.take().or(other.default);
        for (namespace, content) in other.docker {
            if self.docker.contains_key(&namespace) {
                return Err(format!("namespace {namespace:?} is in another file, too"));
            }
            self.docker.insert(namespace, content);
        }
        Ok(())
    }

    /// Where the simple signatures of an image are.
    ///
    /// # Errors
    /// What is configured is no place that can be read.
    pub fn lookaside(&self, name: &Name<'_>) -> Result<Lookaside, String> {
        let found = self.find(name, Namespace::lookaside);
        Lookaside::parse(found.unwrap_or(DEFAULT))
    }

    /// Whether an image's registry is asked for cosign's attachments.
    #[must_use]
    pub fn use_attachments(&self, name: &Name<'_>) -> bool {
        self.find(name, |namespace| namespace.use_sigstore_attachments)
            .unwrap_or(false)
    }

    #[cfg(feature = "fuzzing")]
    pub(crate) fn namespaces(&self) -> impl Iterator<Item = (&str, Option<bool>)> {
        let all = self.docker.iter();
        all.map(|(name, said)| (name.as_str(), said.use_sigstore_attachments))
    }

    #[cfg(feature = "fuzzing")]
    pub(crate) fn default_attachments(&self) -> Option<bool> {
        self.default.as_ref()?.use_sigstore_attachments
    }

    /// The most exact namespace that says something.
    fn find<'a, T>(
        &'a self,
        name: &Name<'_>,
        said: impl Fn(&'a Namespace) -> Option<T>,
    ) -> Option<T> {
        let mut scopes = name.scopes().into_iter().filter(|scope| !scope.is_empty());
        let exact = scopes.find_map(|scope| self.docker.get(&scope).and_then(&said));
        exact.or_else(|| self.default.as_ref().and_then(&said))
    }
}

/// A file's bytes; `None` if it went away since the directory was read.
fn content(path: &PathBuf) -> Result<Option<Vec<u8>>, Error> {
    let failed = |source| Error::Read {
        path: path.clone(),
        source,
    };
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(failed)?,
    };
    let mut bytes = Vec::new();
    let length = file.take(SOURCES_BYTES + 1).read_to_end(&mut bytes);
    if length.map_err(failed)? as u64 > SOURCES_BYTES {
        return Err(Error::Sources {
            path: path.clone(),
            reason: format!("larger than {SOURCES_BYTES} bytes"),
        });
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(repository: &str) -> Name<'_> {
        Name {
            repository,
            tag: Some("1"),
            digest: None,
        }
    }

    #[test]
    fn the_most_exact_namespace_that_says_something_counts() {
        let text = "
default-docker:
  sigstore: file:///old
  lookaside-staging: file:///write
docker:
  a.io:
    lookaside: https://sigs.a.io/x
    use-sigstore-attachments: true
  a.io/team:
    use-sigstore-attachments: false
  a.io/team/app:1:
    lookaside: file:///exact%20place
  '*.wild.io':
    sigstore: file:///older
    lookaside: file:///newer
  '':
    lookaside: file:///nobody
";
        let sources = Sources::parse(text.as_bytes()).unwrap();
        for (repository, base, attachments) in [
            ("b.io/x", "file:///old", false),
            ("a.io/x", "https://sigs.a.io/x", true),
            ("a.io/team/x", "https://sigs.a.io/x", false),
            ("a.io/team/app", "file:///exact place", false),
            ("h.wild.io/x", "file:///newer", false),
        ] {
            let found = sources.lookaside(&name(repository)).unwrap();
            assert_eq!(found.to_string(), base, "{repository}");
            let found = sources.use_attachments(&name(repository));
            assert_eq!(found, attachments, "{repository}");
        }
        let nothing = Sources::default().lookaside(&name("a.io/b")).unwrap();
        assert_eq!(nothing.to_string(), DEFAULT);
    }

    #[test]
    fn a_namespace_in_two_files_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| std::fs::write(dir.path().join(file), text).unwrap();
        assert_eq!(
            Sources::load(&dir.path().join("absent")).unwrap(),
            Sources::default()
        );
        write("a.yaml", "docker: {a.io: {lookaside: 'file:///a'}}\n");
        write("b.yaml", "# nothing\n");
        write("c.yml", "docker: {a.io: {}}\n");
        assert_eq!(Sources::load(dir.path()).unwrap().docker.len(), 1);
        write("d.yaml", "docker: {a.io: {}}\n");
        let error = Sources::load(dir.path()).unwrap_err().to_string();
        assert!(
            error.contains("d.yaml") && error.contains("a.io"),
            "{error}"
        );
    }

    #[test]
    fn yaml_that_is_not_this_is_an_error() {
        let bomb = format!(
            "a0: &a0 [x,x]\n{}",
            (1..40).fold(String::new(), |text, n| {
                format!(
                    "{text}a{n}: &a{n} [*a{0},*a{0},*a{0},*a{0},*a{0},*a{0},*a{0},*a{0}]\n",
                    n - 1
                )
            })
        );
        for bad in [
            "docker: []",
            "docker: {a.io: x}",
            "docker: {a.io: {lookaside: [x]}}",
            "docker: {a.io: {}, a.io: {}}",
            "docker: {a.io: {use-sigstore-attachments: maybe}}",
            "- x",
            "{",
            "\u{fffe}",
            &bomb,
        ] {
            assert!(Sources::parse(bad.as_bytes()).is_err(), "{bad:.40}");
        }
        assert!(Sources::parse(b"unheard-of: 1\ndocker:\n").is_ok());
    }
}
