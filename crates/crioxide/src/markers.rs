//! Files that tell CRI-O's tools, and CRI-O after a switch back, which version ran here and whether
//! it ended cleanly (crio.conf(5): `version_file`, `version_file_persist`, `clean_shutdown_file`).
//!
//! A version file holds the CRI-O version that we are compatible with: with another minor version a
//! CRI-O that takes over would remove all images. We never remove anything because of them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use config::Settings;

/// The CRI-O version whose on-disk conventions we follow.
pub(crate) const COMPATIBLE: &str = "1.36.3";

/// The marker files of this run.
#[derive(Debug)]
pub(crate) struct Markers {
    versions: Vec<PathBuf>,
    clean: Option<PathBuf>,
}

impl Markers {
    /// Takes the clean-shutdown marker away, durably, and says if it was missing.
    pub(crate) fn starting(settings: &Settings) -> Result<Self> {
        let path = |key: &str| {
            Some(settings.path("crio", key)).filter(|path| !path.as_os_str().is_empty())
        };
        let clean = path("clean_shutdown_file");
        if let Some(clean) = &clean {
            let supported = supported(clean);
            if supported.try_exists()? && !clean.try_exists()? {
                tracing::warn!("the last run did not end cleanly: records and kernel are compared");
            }
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
            versions: ["version_file", "version_file_persist"]
                .into_iter()
                .filter_map(path)
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

fn supported(clean: &Path) -> PathBuf {
    let mut name = clean.as_os_str().to_owned();
    name.push(".supported");
    PathBuf::from(name)
}

fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    }
    sys::durable::replace(path, text.as_bytes(), 0o644)
        .with_context(|| format!("write {}", path.display()))
}
