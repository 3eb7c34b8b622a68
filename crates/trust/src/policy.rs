//! A loaded policy and its answer.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::file::{Content, POLICY_BYTES, Requirement, Requirements};
use crate::scope::{Files, Name};

/// A policy could not be loaded. Without one, nothing may run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file can't be read.
    #[error("open policy {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
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
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
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

    /// Tells whether an image may be pulled and run under this name. The longest scope that it
    /// falls under decides, alone.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, name: &Name<'_>) -> Result<(), Refused> {
        self.ask(name.full(), name.scopes(), Some(&self.content.docker))
    }

    /// The same for an image in files of the node.
    ///
    /// # Errors
    /// Why not.
    pub fn check_files(&self, files: &Files<'_>) -> Result<(), Refused> {
        let scopes = self.content.files.get(files.transport);
        self.ask(files.full(), files.scopes(), scopes)
    }

    fn ask(
        &self,
        image: String,
        scopes: Vec<String>,
        known: Option<&BTreeMap<String, Requirements>>,
    ) -> Result<(), Refused> {
        let found = scopes.into_iter().find_map(|scope| {
            let requirements = known?.get(&scope)?;
            Some((scope, requirements))
        });
        let (scope, requirements) =
            found.unwrap_or_else(|| ("default".to_owned(), &self.content.default));
        let reason = requirements
            .iter()
            .find_map(|requirement| match requirement {
                Requirement::Accept => None,
                Requirement::Reject => Some("rejected by policy".to_owned()),
                Requirement::Unsupported(kind) => {
                    Some(format!("requirement {kind} is not supported yet"))
                }
            });
        match reason {
            None => Ok(()),
            Some(reason) => Err(Refused {
                image,
                scope,
                reason,
                path: self.path.clone(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn load(value: &Value) -> Result<Policy, Error> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy.json");
        std::fs::write(&path, value.to_string()).unwrap();
        Policy::load(&path)
    }

    fn accept() -> Value {
        json!([{"type": "insecureAcceptAnything"}])
    }

    fn reject() -> Value {
        json!([{"type": "reject"}])
    }

    #[test]
    fn the_longest_scope_decides() {
        let policy = load(&json!({"default": accept(), "transports": {
            "docker": {
                "bad.io": reject(),
                "bad.io/good": accept(),
                "bad.io/good/app:old": reject(),
                "*.wild.io": reject(),
                "ok.wild.io": accept(),
                "signed.io": [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/k"}],
            },
            "docker-daemon": {"": accept()},
        }}))
        .unwrap();
        for (repository, tag, digest, allowed) in [
            ("docker.io/library/busybox", Some("latest"), None, true),
            ("bad.io/app", Some("v1"), None, false),
            ("bad.io/good/app", Some("v1"), None, true),
            ("bad.io/good/app", Some("old"), None, false),
            ("bad.io/good/app", Some("old"), Some("sha256:00"), true),
            ("bad.io/goodish/app", Some("v1"), None, false),
            ("a.b.wild.io/app", None, None, false),
            ("ok.wild.io/app", None, None, true),
            ("wild.io/app", None, None, true),
            ("signed.io/app", None, None, false),
        ] {
            let name = Name {
                repository,
                tag,
                digest,
            };
            assert_eq!(policy.check(&name).is_ok(), allowed, "{name:?}");
        }
    }

    #[test]
    fn a_refusal_starts_with_the_kubelets_word_and_says_why() {
        let policy =
            load(&json!({"default": [{"type": "sigstoreSigned", "keyPath": "/k"}]})).unwrap();
        let name = Name {
            repository: "a.io/b",
            tag: Some("c"),
            digest: None,
        };
        let text = policy.check(&name).unwrap_err().to_string();
        assert!(
            text.starts_with("SignatureValidationFailed: image a.io/b:c: "),
            "{text}"
        );
        assert!(
            text.contains("sigstoreSigned is not supported yet"),
            "{text}"
        );
    }

    #[test]
    fn the_transports_default_comes_before_the_default() {
        let policy =
            load(&json!({"default": reject(), "transports": {"docker": {"": accept()}}})).unwrap();
        policy
            .check(&Name {
                repository: "a.io/b",
                tag: None,
                digest: None,
            })
            .unwrap();
    }

    #[test]
    fn what_is_not_understood_is_no_policy() {
        for value in [
            json!({}),
            json!({"default": []}),
            json!({"default": [{}]}),
            json!({"default": [{"type": "unheardOf"}]}),
            json!({"default": [{"type": "reject", "except": "x"}]}),
            json!({"default": accept(), "transport": {}}),
            json!({"default": accept(), "transports": {"docker": {"a.io": []}}}),
            json!({"default": accept(), "transports": {"docker": {"a.*.io": accept()}}}),
            json!({"default": accept(), "transports": {"docker": {"*.io/x": accept()}}}),
        ] {
            assert!(
                matches!(load(&value), Err(Error::Invalid { .. })),
                "{value}"
            );
        }
        let missing = Policy::load(Path::new("/nonexistent/policy.json"));
        assert!(matches!(missing, Err(Error::Read { .. })));
    }
}
