//! Which files make up `storage.conf` (containers-storage.conf(5), FILES).
//!
//! The first of the user's, `/etc`'s and `/usr/share`'s `storage.conf`; then the drop-ins of all three,
//! in the order of their names, of two with one name the user's or the administrator's. A file that
//! the environment names stands in for all of them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::Error;

/// Where storage options come from that `crio.conf` builds on. The default reads nothing.
#[derive(Debug, Clone, Default)]
pub struct StorageSources {
    /// The only file, where the environment names one; it has to be there.
    pub named: Option<PathBuf>,
    /// A file that is read after all others; it has to be there.
    pub last: Option<PathBuf>,
    /// Directories with a `storage.conf` each and drop-ins beside it, the least first.
    pub directories: Vec<PathBuf>,
    /// Directory of the user's own, which wins and has no drop-ins for root alone.
    pub user: Option<PathBuf>,
    /// A storage driver that wins over the files'.
    pub driver: Option<String>,
    /// Storage options, separated by commas, in place of the files'.
    pub options: Option<String>,
}

impl StorageSources {
    /// The system's files, and what the environment says.
    #[must_use]
    pub fn system(environment: impl Fn(&str) -> Option<OsString>) -> Self {
        let set = |name: &str| environment(name).filter(|value| !value.is_empty());
        let text = |name: &str| environment(name).map(|text| text.to_string_lossy().into_owned());
        let user = set("XDG_CONFIG_HOME")
            .map(PathBuf::from)
            .or_else(|| Some(PathBuf::from(set("HOME")?).join(".config")));
        Self {
            named: set("CONTAINERS_STORAGE_CONF").map(PathBuf::from),
            last: set("CONTAINERS_STORAGE_CONF_OVERRIDE").map(PathBuf::from),
            directories: vec!["/usr/share/containers".into(), "/etc/containers".into()],
            user: user.map(|dir| dir.join("containers")),
            driver: text("STORAGE_DRIVER").filter(|driver| !driver.is_empty()),
            options: text("STORAGE_OPTS"),
        }
    }

    /// The files to read, in their order.
    ///
    /// # Errors
    /// A directory can't be read.
    pub(super) fn files(&self) -> Result<Vec<PathBuf>, Error> {
        let mut files = Vec::new();
        match &self.named {
            Some(named) => files.push(named.clone()),
            None => {
                let all = self.user.iter().chain(self.directories.iter().rev());
                for dir in all {
                    let path = dir.join("storage.conf");
                    if path.try_exists().map_err(failed(&path))? {
                        files.push(path);
                        break;
                    }
                }
                files.extend(self.drop_ins()?);
            }
        }
        files.extend(self.last.clone());
        Ok(files)
    }

    fn drop_ins(&self) -> Result<impl Iterator<Item = PathBuf> + use<>, Error> {
        let of_system = self.directories.iter().flat_map(|dir| {
            let names = ["storage.conf.d", "storage.rootful.conf.d"];
            names.map(|name| dir.join(name))
        });
        let of_user = self.user.iter().map(|dir| dir.join("storage.conf.d"));
        let mut by_name = BTreeMap::new();
        for dir in of_system.chain(of_user) {
            let entries = match fs::read_dir(&dir) {
                Err(missing) if missing.kind() == io::ErrorKind::NotFound => continue,
                entries => entries.map_err(failed(&dir))?,
            };
            for entry in entries {
                let entry = entry.map_err(failed(&dir))?;
                let is_file = entry.file_type().map_err(failed(&dir))?.is_file();
                let path = entry.path();
                if is_file && path.extension().is_some_and(|end| end == "conf") {
                    by_name.insert(entry.file_name(), path);
                }
            }
        }
        Ok(by_name.into_values())
    }
}

fn failed(path: &Path) -> impl Fn(io::Error) -> Error + '_ {
    |source| Error::Read {
        path: path.to_owned(),
        source,
    }
}
