//! The part of `containers-storage.conf(5)` that `crio.conf` builds on.

use std::fs;
use std::path::Path;

use crate::{Error, Origin};

/// Defaults that `storage.conf` sets; `None` where it does not.
#[derive(Debug, Default)]
pub(crate) struct StorageConf {
    pub(crate) root: Option<String>,
    pub(crate) run_root: Option<String>,
    pub(crate) driver: Option<String>,
    pub(crate) options: Vec<String>,
}

impl StorageConf {
    /// Reads `path`; a file that is not there sets nothing.
    pub(crate) fn read(path: &Path) -> Result<Self, Error> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(missing) if missing.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(source) => {
                return Err(Error::Read {
                    path: path.to_owned(),
                    source,
                });
            }
        };
        let table: toml::Table = text
            .parse()
            .map_err(|wrong: toml::de::Error| Error::Syntax {
                at: Origin::File(path.to_owned(), 1),
                message: wrong.message().to_owned(),
            })?;
        let storage = table.get("storage");
        let text = |key: &str| {
            let value = storage?.get(key)?.as_str()?;
            (!value.is_empty()).then(|| value.to_owned())
        };
        let overlay = storage.and_then(|storage| storage.get("options")?.get("overlay"));
        let mount_options = overlay.and_then(|overlay| overlay.get("mountopt")?.as_str());
        Ok(Self {
            root: text("graphroot"),
            run_root: text("runroot"),
            driver: text("driver"),
            options: mount_options
                .map(|options| format!("overlay.mountopt={options}"))
                .into_iter()
                .collect(),
        })
    }
}
