//! A loaded policy and its answer.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::file::Content;
use crate::limits::POLICY_BYTES;
use crate::requirement::Requirements;
use crate::scope::{Local, Name};
use crate::signature::Evidence;
use crate::time::Now;

/// A policy could not be loaded. Without one, nothing may run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file can't be read.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file of `registries.d` is not what it should be.
    #[error("invalid signature sources in {}: {reason}", path.display())]
    Sources {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file's content is no policy.
    #[error("invalid policy in {}: {reason}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// The policy does not allow an image. The text begins with the word that the kubelet knows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("SignatureValidationFailed: image {image}: {reason} (scope {scope:?} of {})", path.display())]
pub struct Refused {
    /// The image's name.
    pub image: String,
    /// The scope that decided; `default` if none matched.
    pub scope: String,
    /// What it asks for.
    pub reason: String,
    /// The policy's file.
    pub path: PathBuf,
}

/// A policy file's content.
#[derive(Clone, Debug)]
pub struct Policy {
    path: PathBuf,
    content: Content,
}

impl Policy {
    /// Reads a policy file.
    ///
    /// # Errors
    /// It is missing, too large or invalid; a requirement of an unknown type is invalid, too.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let read = |source| Error::Read {
            path: path.to_owned(),
            source,
        };
        let invalid = |reason| Error::Invalid {
            path: path.to_owned(),
            reason,
        };
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(read)?;
        let length = file
            .take(POLICY_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(read)?;
        if length as u64 > POLICY_BYTES {
            return Err(invalid(format!("larger than {POLICY_BYTES} bytes")));
        }
        Self::parse(path, &bytes)
    }

    /// Reads a policy file's content.
    pub(crate) fn parse(path: &Path, bytes: &[u8]) -> Result<Self, Error> {
        let content = Content::parse(bytes).map_err(|reason| Error::Invalid {
            path: path.to_owned(),
            reason,
        })?;
        Ok(Self {
            path: path.to_owned(),
            content,
        })
    }

    /// Tells, before anything is fetched, whether an image may be pulled and run under this name:
    /// `true` if its signatures decide.
    ///
    /// # Errors
    /// It may not, whatever its signatures are.
    pub fn needs_signatures(&self, name: &Name<'_>) -> Result<bool, Refused> {
        self.of_name(name).needs_signatures()
    }

    /// Tells whether an image with these signatures may be pulled and run under this name. The
    /// longest scope that it falls under decides, alone; all of its requirements must be met.
    ///
    /// Reads the files of keys that the policy names.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, name: &Name<'_>, evidence: &Evidence<'_>) -> Result<(), Refused> {
        self.of_name(name).check(Some(name), evidence)
    }

    /// As [`Policy::needs_signatures`], of an image of the node itself.
    ///
    /// # Errors
    /// It may not be loaded, whatever its signatures are.
    pub fn local_needs_signatures(&self, local: &Local<'_>) -> Result<bool, Refused> {
        self.of_local(local).needs_signatures()
    }

    /// Tells whether an image of the node itself, with these signatures, may be loaded. One in files has
    /// no name: its signatures count where `signedIdentity` says for what they have to be.
    ///
    /// Reads the files of keys that the policy names.
    ///
    /// # Errors
    /// Why not.
    pub fn check_local(&self, local: &Local<'_>, evidence: &Evidence<'_>) -> Result<(), Refused> {
        self.of_local(local).check(local.name(), evidence)
    }

    fn of_local(&self, local: &Local<'_>) -> Asked<'_> {
        let scopes = self.content.local.get(local.transport());
        self.asked(local.full(), local.scopes(), scopes)
    }

    fn of_name(&self, name: &Name<'_>) -> Asked<'_> {
        self.asked(name.full(), name.scopes(), Some(&self.content.docker))
    }

    fn asked<'a>(
        &'a self,
        image: String,
        scopes: Vec<String>,
        known: Option<&'a BTreeMap<String, Requirements>>,
    ) -> Asked<'a> {
        let found = scopes.into_iter().find_map(|scope| {
            let requirements = known?.get(&scope)?;
            Some((scope, requirements))
        });
        let (scope, requirements) =
            found.unwrap_or_else(|| ("default".to_owned(), &self.content.default));
        Asked {
            image,
            scope,
            requirements,
            path: &self.path,
        }
    }
}

/// What a policy asks of one image.
struct Asked<'a> {
    image: String,
    scope: String,
    requirements: &'a Requirements,
    path: &'a Path,
}

impl Asked<'_> {
    fn needs_signatures(&self) -> Result<bool, Refused> {
        let mut needed = false;
        for requirement in self.requirements {
            let needs = requirement.needs_signatures();
            needed |= needs.map_err(|reason| self.refused(reason))?;
        }
        Ok(needed)
    }

    fn check(&self, name: Option<&Name<'_>>, evidence: &Evidence<'_>) -> Result<(), Refused> {
        let now = Now::by_clock();
        for requirement in self.requirements {
            let met = requirement.check(name, evidence, now);
            met.map_err(|reason| self.refused(reason))?;
        }
        Ok(())
    }

    fn refused(&self, reason: String) -> Refused {
        Refused {
            image: self.image.clone(),
            scope: self.scope.clone(),
            reason,
            path: self.path.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests;
