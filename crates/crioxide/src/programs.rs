//! Where the helper programs are: beside the daemon, in the package's directory, in `PATH`. The one
//! place that knows; tests, `make` and packages put them there.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// The package's directory of programs that users don't start.
const LIBEXEC: &str = "/usr/libexec/crioxide";

/// Finds the program `name`.
///
/// # Errors
/// It is nowhere; the text says where it was looked for.
pub(crate) fn find(name: &str) -> Result<PathBuf> {
    let own = env::current_exe().context("find the daemon's own program")?;
    let beside = own.parent().unwrap_or(Path::new("/")).join(name);
    let path = env::var_os("PATH").unwrap_or_default();
    let in_path = env::split_paths(&path).map(|dir| dir.join(name));
    let all: Vec<_> = [beside, Path::new(LIBEXEC).join(name)]
        .into_iter()
        .chain(in_path)
        .collect();
    match all.iter().find(|path| path.is_file()) {
        Some(found) => Ok(found.clone()),
        None => Err(crate::missing(name, &all)),
    }
}
