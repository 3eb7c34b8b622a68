//! One file of `registries.conf`, as TOML has it.

use std::collections::BTreeMap;

use serde::Deserialize;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct RawFile {
    pub(super) unqualified_search_registries: Option<Vec<String>>,
    pub(super) short_name_mode: Option<String>,
    pub(super) credential_helpers: Option<Vec<String>>,
    #[serde(default)]
    pub(super) additional_layer_store_auth_helper: String,
    #[serde(default)]
    pub(super) registry: Vec<RawRegistry>,
    #[serde(default)]
    pub(super) aliases: BTreeMap<String, String>,
    /// Version 1 of the format had this table.
    registries: Option<toml::Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(super) struct RawRegistry {
    pub(super) prefix: String,
    pub(super) location: String,
    pub(super) insecure: bool,
    pub(super) blocked: bool,
    pub(super) mirror_by_digest_only: bool,
    pub(super) mirror: Vec<RawMirror>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(super) struct RawMirror {
    pub(super) location: String,
    pub(super) insecure: bool,
    pub(super) pull_from_mirror: PullFromMirror,
}

/// Which references a mirror is for.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(super) enum PullFromMirror {
    #[default]
    All,
    DigestOnly,
    TagOnly,
}

impl RawFile {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let file: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        if file.registries.is_some() {
            return Err(
                "version 1 of registries.conf is not supported: use [[registry]]".to_owned(),
            );
        }
        Ok(file)
    }
}
