//! Files that tell CRI-O's tools, and CRI-O after a switch back, which version ran here and whether
//! it ended cleanly (crio.conf(5): `version_file`, `version_file_persist`, `clean_shutdown_file`).
//!
//! A version file holds the CRI-O version that we are compatible with: with another minor version a
//! CRI-O that takes over would remove all images. What we remove because of them is in `upkeep`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use config::Settings;

/// The CRI-O version whose on-disk conventions we follow.
pub(crate) const COMPATIBLE: &str = "1.36.3";

/// The marker files of this run, and what they said before it.
#[derive(Debug)]
pub(crate) struct Markers {
    /// The last run did not end cleanly.
    pub(crate) unclean: bool,
    /// `version_file`, which is on tmpfs, is gone: the node was rebooted. Or another version ran.
    pub(crate) rebooted: bool,
    /// `version_file_persist` is of another minor version.
    pub(crate) upgraded: bool,
    versions: Vec<PathBuf>,
    clean: Option<PathBuf>,
}

impl Markers {
    /// Takes the clean-shutdown marker away, durably, and says if it was missing.
    pub(crate) fn starting(settings: &Settings) -> Result<Self> {
        let unclean = was_unclean(settings);
        if unclean {
            tracing::warn!("the last run did not end cleanly: records and kernel are compared");
        }
        let clean = path(settings, "clean_shutdown_file");
        if let Some(clean) = &clean {
            let supported = supported(clean);
            if let Some(dir) = clean.parent() {
                fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
            }
            match fs::remove_file(clean) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("remove {}", clean.display()));
                }
                _ => {}
            }
            write(&supported, "")?;
        }
        Ok(Self {
            unclean,
            rebooted: is_outdated(settings, "version_file"),
            upgraded: is_outdated(settings, "version_file_persist"),
            versions: ["version_file", "version_file_persist"]
                .into_iter()
                .filter_map(|key| path(settings, key))
                .collect(),
            clean,
        })
    }

    /// Writes the version files: the records are read.
    pub(crate) fn started(&self) -> Result<()> {
        self.versions
            .iter()
            .try_for_each(|path| write(path, &format!("\"{COMPATIBLE}\"")))
    }

    /// Writes the clean-shutdown marker.
    pub(crate) fn clean_end(&self) -> Result<()> {
        self.clean.as_deref().map_or(Ok(()), |path| write(path, ""))
    }
}

/// The file that an option names, unless it is empty.
fn path(settings: &Settings, key: &str) -> Option<PathBuf> {
    Some(settings.path("crio", key)).filter(|path| !path.as_os_str().is_empty())
}

/// Whether the last run did not end cleanly, and was one that would have said so.
pub(crate) fn was_unclean(settings: &Settings) -> bool {
    let is_there = |path: &Path| path.try_exists().unwrap_or(false);
    path(settings, "clean_shutdown_file")
        .is_some_and(|clean| is_there(&supported(&clean)) && !is_there(&clean))
}

/// Whether the version file that the option `key` names is of another minor version than ours,
/// missing, or no version file. One that is not configured is none of these.
pub(crate) fn is_outdated(settings: &Settings, key: &str) -> bool {
    let Some(path) = path(settings, key) else {
        return false;
    };
    match fs::read_to_string(&path) {
        Ok(text) => minor(&text) != minor(&format!("\"{COMPATIBLE}\"")),
        Err(error) => {
            tracing::info!(path = %path.display(), %error, "no version file");
            true
        }
    }
}

/// Major and minor version in a version file, a JSON string.
fn minor(text: &str) -> Option<(u64, u64)> {
    let version: String = serde_json::from_str(text.trim()).ok()?;
    let mut numbers = version.split('.');
    let (major, minor) = (numbers.next()?, numbers.next()?);
    numbers.next()?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn supported(clean: &Path) -> PathBuf {
    let mut name = clean.as_os_str().to_owned();
    name.push(".supported");
    PathBuf::from(name)
}

/// Writes a marker, durably.
pub(crate) fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    }
    sys::durable::replace(path, text.as_bytes(), 0o644)
        .with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_files_are_compared_by_major_and_minor() {
        for (text, wanted) in [
            ("\"1.36.3\"", Some((1, 36))),
            ("\"1.36.0-dev+abc\"\n", Some((1, 36))),
            ("\"1.9.12\"", Some((1, 9))),
            ("1.36.3", None),
            ("\"1.36\"", None),
            ("\"\"", None),
            ("", None),
        ] {
            assert_eq!(minor(text), wanted, "{text:?}");
        }
    }
}
