//! `registries.conf`, version 2: where a reference is really fetched from.
//!
//! Source: `containers-registries.conf(5)`. A drop-in replaces a registry with the same prefix as
//! a whole, replaces the list of search registries, and adds to the aliases.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::limits;
use crate::options::ShortNames;
use crate::reference::{ImageName, Reference, ShortName};

mod file;

use file::{PullFromMirror, RawFile, RawRegistry};

/// The merged files.
#[derive(Debug, Default)]
pub(crate) struct Registries {
    registries: Vec<Registry>,
    search: Vec<String>,
    /// The file that set `search`, for messages.
    search_file: PathBuf,
    aliases: BTreeMap<String, String>,
    enforcing: bool,
    /// Whether that was said elsewhere, and not in these files.
    overridden: bool,
    credential_helpers: Vec<String>,
    layer_store_helper: Option<String>,
}

#[derive(Debug)]
struct Registry {
    raw: RawRegistry,
    prefix: String,
    file: PathBuf,
}

/// Where to fetch a reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) reference: Reference,
    /// Plain HTTP and unknown certificates are fine.
    pub(crate) insecure: bool,
    pub(crate) mirror: bool,
}

impl Registries {
    /// Reads the file and its drop-ins; absent ones are fine.
    pub(crate) fn load(path: &Path, drop_ins: &Path) -> Result<Self> {
        let mut merged = Self {
            search_file: path.to_owned(),
            enforcing: true,
            ..Self::default()
        };
        merged.add(path)?;
        let mut files = Vec::new();
        for entry in std::fs::read_dir(drop_ins).into_iter().flatten().flatten() {
            let file = entry.path();
            if file
                .extension()
                .is_some_and(|extension| extension == "conf")
            {
                files.push(file);
            }
        }
        files.sort();
        for file in files {
            merged.add(&file)?;
        }
        Ok(merged)
    }

    /// Goes by this mode of short names, whatever the files say.
    pub(crate) fn with_short_names(self, mode: ShortNames) -> Self {
        Self {
            enforcing: mode == ShortNames::Enforcing,
            overridden: true,
            ..self
        }
    }

    fn add(&mut self, path: &Path) -> Result<()> {
        let bad = |reason: String| Error::Config {
            path: path.to_owned(),
            reason,
        };
        let Some(bytes) = read_bounded(path).map_err(|error| bad(error.to_string()))? else {
            return Ok(());
        };
        self.add_content(path, &bytes).map_err(bad)
    }

    /// Helpers that are asked for credentials, in order; none: the files alone.
    pub(crate) fn credential_helpers(&self) -> &[String] {
        &self.credential_helpers
    }

    /// The program that is told, for additional layer stores, what a registry is shown.
    pub(crate) fn layer_store_helper(&self) -> Option<&str> {
        self.layer_store_helper.as_deref()
    }

    /// Adds what the file at `path` holds.
    pub(crate) fn add_content(&mut self, path: &Path, bytes: &[u8]) -> Result<(), String> {
        let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
        let raw = RawFile::parse(text)?;
        for registry in raw.registry {
            let registry = Registry::new(registry, path)?;
            self.registries
                .retain(|known| known.prefix != registry.prefix);
            self.registries.push(registry);
        }
        if let Some(search) = raw.unqualified_search_registries {
            (self.search, self.search_file) = (search, path.to_owned());
        }
        if let Some(helpers) = raw.credential_helpers {
            self.credential_helpers = helpers;
        }
        let helper = raw.additional_layer_store_auth_helper;
        if !helper.is_empty() {
            self.layer_store_helper = Some(helper);
        }
        if let Some(mode) = raw.short_name_mode {
            self.enforcing = match mode.as_str() {
                "" | "enforcing" => true,
                // There is nobody to ask, so permissive is the same as disabled.
                "permissive" | "disabled" => false,
                other => return Err(format!("invalid short-name-mode {other:?}")),
            };
        }
        for (name, repository) in raw.aliases {
            if repository.is_empty() {
                self.aliases.remove(&name);
            } else {
                self.aliases.insert(name, repository);
            }
        }
        Ok(())
    }

    /// The full references that a name may mean, in the order to try them.
    pub(crate) fn candidates(&self, name: &ImageName) -> Result<Vec<Reference>> {
        let short = match name {
            ImageName::Full(reference) => return Ok(vec![reference.clone()]),
            ImageName::Short(short) => short,
        };
        let bad = |reason: String| Error::BadReference {
            reference: short.to_string(),
            reason,
        };
        if let Some(repository) = self.aliases.get(short.name()) {
            return Ok(vec![short.at(repository)?]);
        }
        let found = self.searched(short)?;
        if found.is_empty() {
            return Err(bad(format!(
                "short-name did not resolve to an alias and no unqualified-search registries are \
                 defined in {}: write the full name, as in docker.io/library/{short}",
                self.search_file.display()
            )));
        }
        self.unambiguous(short, found)
    }

    /// What a short name may mean, if that is one thing or all of it may be tried.
    fn unambiguous(&self, short: &ShortName, found: Vec<Reference>) -> Result<Vec<Reference>> {
        if !self.enforcing || found.len() < 2 {
            return Ok(found);
        }
        let names: Vec<_> = found.iter().map(ToString::to_string).collect();
        let option = match self.overridden {
            true => "short_name_mode = \"disabled\" in crio.conf",
            false => "short-name-mode = \"disabled\"",
        };
        Err(Error::BadReference {
            reference: short.to_string(),
            reason: format!(
                "short name mode is enforcing, but the image name returns ambiguous list: it could \
                 be {}. Write one of these, or in {} leave one of unqualified-search-registries, \
                 add an alias, or set {option}",
                names.join(" or "),
                self.search_file.display()
            ),
        })
    }

    /// The same for an image that may be in the store already, which need not have come from any
    /// registry. An ambiguous name is one here too, or a pod would get whichever was pulled before.
    pub(crate) fn stored_candidates(&self, name: &ImageName) -> Result<Vec<Reference>> {
        match name {
            ImageName::Full(reference) => Ok(vec![reference.clone()]),
            ImageName::Short(short) => match self.aliases.get(short.name()) {
                Some(repository) => Ok(vec![short.at(repository)?]),
                None => {
                    let mut found = self.unambiguous(short, self.searched(short)?)?;
                    found.push(short.at(&format!("localhost/{}", short.name()))?);
                    Ok(found)
                }
            },
        }
    }

    fn searched(&self, short: &ShortName) -> Result<Vec<Reference>> {
        let at = |host: &String| short.at(&format!("{host}/{}", short.name()));
        self.search.iter().map(at).collect()
    }

    /// Where a reference is fetched from, in the order to try: mirrors, then the registry.
    ///
    /// # Errors
    /// [`Error::Blocked`].
    pub(crate) fn sources(&self, reference: &Reference) -> Result<Vec<Source>> {
        let plain = |insecure| Source {
            reference: reference.clone(),
            insecure,
            mirror: false,
        };
        let best = self
            .registries
            .iter()
            .filter_map(|registry| Some((registry, matched(&registry.prefix, reference)?)))
            .max_by_key(|(_, length)| *length);
        let Some((registry, length)) = best else {
            return Ok(vec![plain(false)]);
        };
        if registry.raw.blocked {
            return Err(Error::Blocked {
                registry: registry.prefix.clone(),
                file: registry.file.clone(),
            });
        }
        let repository = reference.repository();
        let rest = repository.get(length..).unwrap_or_default();
        let by_digest = reference.digest().is_some();
        let mut sources = Vec::new();
        for mirror in &registry.raw.mirror {
            let wanted = match mirror.pull_from_mirror {
                PullFromMirror::All => by_digest || !registry.raw.mirror_by_digest_only,
                PullFromMirror::DigestOnly => by_digest,
                PullFromMirror::TagOnly => !by_digest,
            };
            if wanted {
                let reference = reference.in_repository(&format!("{}{rest}", mirror.location))?;
                sources.push(Source {
                    reference,
                    insecure: mirror.insecure,
                    mirror: true,
                });
            }
        }
        let mut primary = plain(registry.raw.insecure);
        if !registry.raw.location.is_empty() {
            let moved = format!("{}{rest}", registry.raw.location);
            primary.reference = reference.in_repository(&moved)?;
        }
        sources.push(primary);
        Ok(sources)
    }
}

impl Registry {
    fn new(mut raw: RawRegistry, file: &Path) -> Result<Self, String> {
        let trim = |text: &str| text.trim_end_matches('/').to_owned();
        raw.location = trim(&raw.location);
        let mut prefix = trim(&raw.prefix);
        if prefix.is_empty() {
            prefix.clone_from(&raw.location);
        }
        if prefix.is_empty() {
            return Err("a registry has neither prefix nor location".to_owned());
        }
        if prefix.contains("://") || raw.location.contains("://") {
            return Err(format!(
                "registry {prefix:?}: a location is a host, not a URL"
            ));
        }
        let host = prefix.strip_prefix("*.").unwrap_or(&prefix);
        if host.contains('*') || (host.len() != prefix.len() && host.contains('/')) {
            return Err(format!("registry {prefix:?}: a wildcard is *.domain"));
        }
        if raw.location.is_empty() && !prefix.starts_with("*.") {
            raw.location.clone_from(&prefix);
        }
        for mirror in &mut raw.mirror {
            mirror.location = trim(&mirror.location);
            if mirror.location.is_empty() || mirror.location.contains("://") {
                return Err(format!(
                    "registry {prefix:?}: a mirror's location is a host"
                ));
            }
            if raw.mirror_by_digest_only && mirror.pull_from_mirror != PullFromMirror::All {
                return Err(format!(
                    "registry {prefix:?}: mirror-by-digest-only and pull-from-mirror exclude each other"
                ));
            }
        }
        Ok(Self {
            raw,
            prefix,
            file: file.to_owned(),
        })
    }
}

/// How much of the reference's repository a prefix matches, in bytes.
fn matched(prefix: &str, reference: &Reference) -> Option<usize> {
    if let Some(domain) = prefix.strip_prefix('*') {
        return reference
            .host()
            .ends_with(domain)
            .then(|| reference.host().len());
    }
    let repository = reference.repository();
    let rest = repository.strip_prefix(prefix);
    if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
        return Some(prefix.len());
    }
    // A prefix may name one tag or digest.
    let exact = prefix == reference.stored_name() || prefix == reference.to_string();
    exact.then_some(repository.len())
}

/// Reads a file of configuration; `None` if there is none.
pub(crate) fn read_bounded(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(limits::FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limits::FILE_BYTES {
        return Err(io::Error::other(format!(
            "larger than {} bytes",
            limits::FILE_BYTES
        )));
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests;
