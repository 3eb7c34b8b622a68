//! The file's JSON. Strict: a misspelt key would silently weaken a policy.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

/// Bytes of a policy file (ours; keys may be embedded).
pub(crate) const POLICY_BYTES: u64 = 4 << 20;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    default: Vec<Value>,
    #[serde(default)]
    transports: BTreeMap<String, BTreeMap<String, Vec<Value>>>,
}

/// What a policy asks of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Requirement {
    /// `insecureAcceptAnything`.
    Accept,
    /// `reject`.
    Reject,
    /// Known, but not evaluated here; the type's name.
    Unsupported(String),
}

/// All must hold. Never empty.
pub(crate) type Requirements = Vec<Requirement>;

/// A file's content, with what is in it checked.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    pub(crate) default: Requirements,
    /// Scopes of transport `docker`; `""` is the transport's default.
    pub(crate) docker: BTreeMap<String, Requirements>,
    /// Those of the others, by transport.
    pub(crate) files: BTreeMap<String, BTreeMap<String, Requirements>>,
}

impl Content {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let file: File = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let default = requirements(&file.default).map_err(|reason| format!("default: {reason}"))?;
        let mut docker = BTreeMap::new();
        let mut files: BTreeMap<String, BTreeMap<_, _>> = BTreeMap::new();
        for (transport, scopes) in file.transports {
            for (scope, list) in scopes {
                let parsed = requirements(&list)
                    .map_err(|reason| format!("transports.{transport}.{scope:?}: {reason}"))?;
                if transport == "docker" {
                    check_scope(&scope).map_err(|reason| format!("scope {scope:?}: {reason}"))?;
                    docker.insert(scope, parsed);
                } else {
                    files
                        .entry(transport.clone())
                        .or_default()
                        .insert(scope, parsed);
                }
            }
        }
        Ok(Self {
            default,
            docker,
            files,
        })
    }
}

fn requirements(list: &[Value]) -> Result<Requirements, String> {
    if list.is_empty() {
        return Err("the list of requirements is empty".to_owned());
    }
    list.iter().map(requirement).collect()
}

fn requirement(value: &Value) -> Result<Requirement, String> {
    let object = value.as_object().ok_or("a requirement is no object")?;
    let kind = object
        .get("type")
        .and_then(Value::as_str)
        .ok_or("a requirement has no type")?;
    let plain = |requirement| match object.keys().find(|key| *key != "type") {
        Some(key) => Err(format!("unknown key {key:?} in {kind:?}")),
        None => Ok(requirement),
    };
    match kind {
        "insecureAcceptAnything" => plain(Requirement::Accept),
        "reject" => plain(Requirement::Reject),
        "signedBy" | "signedBaseLayer" | "sigstoreSigned" => {
            Ok(Requirement::Unsupported(kind.to_owned()))
        }
        other => Err(format!("unknown requirement type {other:?}")),
    }
}

fn check_scope(scope: &str) -> Result<(), String> {
    let rest = scope.strip_prefix("*.").unwrap_or(scope);
    if rest.contains('*') {
        return Err("a wildcard is only allowed as the first part of a host".to_owned());
    }
    if rest.len() != scope.len() && rest.contains('/') {
        return Err("a wildcard scope is a host without a path".to_owned());
    }
    Ok(())
}
