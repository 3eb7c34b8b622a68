//! Where the node's credentials are looked for, in order: the file that was left for this one pull,
//! the files of the node, and helpers.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::file::{self, Said};
use super::{Credentials, helper};
use crate::error::{Error, Result};
use crate::options::{Options, is_label};
use crate::pull::PullRequest;
use crate::reference::Reference;
use crate::registries::read_bounded;

/// The name under which `registries.conf` has the files among its `credential-helpers`.
const FILES: &str = "containers-auth.json";

/// What is known for one pull. Its `Debug` shows no content.
pub(crate) struct Search<'a> {
    options: &'a Options,
    /// Helpers of `registries.conf`, and the files among them.
    helpers: &'a [String],
    /// The file for this pull alone, and its content.
    own: Option<(PathBuf, Vec<u8>)>,
}

impl<'a> Search<'a> {
    /// For a pull: with the file that it names, or one that was left for it
    /// (`NAMESPACE-SHA256OFIMAGE.json` in `namespaced_auth_dir`). That one is read and removed: it is
    /// good once.
    ///
    /// # Errors
    /// A file is named and missing, or can't be read.
    pub(crate) fn new(
        options: &'a Options,
        helpers: &'a [String],
        request: &PullRequest,
    ) -> Result<Self> {
        let namespace = &request.namespace;
        let own = match (&request.auth_file, &options.namespaced_auth_dir) {
            (Some(path), _) => {
                let content = fs::read(path).map_err(|error| bad(path, error.to_string()))?;
                Some((path.clone(), content))
            }
            (None, Some(dir)) if is_label(namespace) => take(dir, namespace, &request.reference)?,
            (None, _) => None,
        };
        Ok(Self {
            options,
            helpers,
            own,
        })
    }

    /// The credentials for a repository.
    ///
    /// # Errors
    /// A file can't be understood, or a helper fails.
    pub(crate) fn find(&self, reference: &Reference) -> Result<Option<Credentials>> {
        let repository = reference.repository();
        let files = [FILES.to_owned()];
        let helpers = match self.helpers {
            [] => &files,
            configured => configured,
        };
        for helper in helpers {
            let found = if helper == FILES {
                self.in_files(&repository, reference.host())?
            } else {
                let bad = |reason| bad(&self.options.registries_conf, reason);
                let path = &self.options.helper_path;
                helper::ask(helper, path, reference.host()).map_err(bad)?
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    fn in_files(&self, repository: &str, host: &str) -> Result<Option<Credentials>> {
        if let Some((path, content)) = &self.own
            && let Some(found) = self.said(path, content, repository, host)?
        {
            return Ok(Some(found));
        }
        let global = self.options.global_auth_file.iter();
        for path in global.chain(&self.options.auth_files) {
            let content = read_bounded(path).map_err(|error| bad(path, error.to_string()))?;
            let content = content.unwrap_or_default();
            if let Some(found) = self.said(path, &content, repository, host)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn said(
        &self,
        path: &Path,
        content: &[u8],
        repository: &str,
        host: &str,
    ) -> Result<Option<Credentials>> {
        let bad = |reason| bad(path, reason);
        match file::look_up(content, repository).map_err(bad)? {
            Said::Nothing => Ok(None),
            Said::Known(found) => Ok(Some(found)),
            Said::Ask(name) => helper::ask(&name, &self.options.helper_path, host).map_err(bad),
        }
    }
}

fn bad(path: &Path, reason: String) -> Error {
    Error::Config {
        path: path.to_owned(),
        reason,
    }
}

fn take(dir: &Path, namespace: &str, image: &str) -> Result<Option<(PathBuf, Vec<u8>)>> {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, image.as_bytes());
    let hex: String = digest
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let path = dir.join(format!("{namespace}-{hex}.json"));
    let io = |error: io::Error| bad(&path, error.to_string());
    let Some(content) = read_bounded(&path).map_err(io)? else {
        return Ok(None);
    };
    match fs::remove_file(&path) {
        // Another pull of the same took it, too.
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => {}
        removed => removed.map_err(io)?,
    }
    Ok(Some((path, content)))
}
