//! The policy file's JSON. Strict: a misspelt key would silently weaken a policy.

use std::collections::BTreeMap;

use crate::json::Object;
use crate::requirement::{Requirements, parse_all};

/// A file's content, with what is in it checked.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    pub(crate) default: Requirements,
    /// Scopes of transport `docker`; `""` is the transport's default.
    pub(crate) docker: BTreeMap<String, Requirements>,
    /// Those of the others, by transport.
    pub(crate) local: BTreeMap<String, BTreeMap<String, Requirements>>,
}

impl Content {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut file = Object::parse("policy", bytes)?;
        let default = parse_all(file.need("default")?).map_err(|why| format!("default: {why}"))?;
        let mut docker = BTreeMap::new();
        let mut local: BTreeMap<String, BTreeMap<_, _>> = BTreeMap::new();
        if let Some(transports) = file.take("transports") {
            for (transport, scopes) in Object::of("transports", transports)?.rest() {
                for (scope, list) in Object::of("transport", scopes)?.rest() {
                    let parsed = parse_all(list)
                        .map_err(|why| format!("transports.{transport}.{scope:?}: {why}"))?;
                    if transport == "docker" {
                        check_scope(&scope).map_err(|why| format!("scope {scope:?}: {why}"))?;
                        docker.insert(scope, parsed);
                    } else {
                        let of_transport = local.entry(transport.clone()).or_default();
                        of_transport.insert(scope, parsed);
                    }
                }
            }
        }
        file.end()?;
        Ok(Self {
            default,
            docker,
            local,
        })
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
