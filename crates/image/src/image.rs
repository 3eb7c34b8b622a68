//! An image as it is listed, and its configuration.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use storage::{Digest, ImageId};

use crate::manifest::null_is_default;

/// An image of the store.
#[derive(Clone, Debug)]
pub struct Image {
    /// The hexadecimal digest of its configuration.
    pub id: ImageId,
    /// `host/path:tag`, for each.
    pub repo_tags: Vec<String>,
    /// `host/path@digest`, for each repository that it has or had a name in and each of its
    /// manifests and indexes.
    pub repo_digests: Vec<String>,
    /// Bytes of its uncompressed layers and its data.
    pub size: u64,
    /// The user that its configuration names.
    pub user: User,
    /// The manifest's annotations.
    pub annotations: BTreeMap<String, String>,
    /// Whether the kubelet must not collect it.
    pub pinned: bool,
    /// Its configuration.
    pub config: Arc<OciConfig>,
}

/// The user of an image's configuration, without its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum User {
    /// None is named: root.
    None,
    /// A number.
    Uid(u32),
    /// A name; also digits that are no user ID (the kubelet then refuses `runAsNonRoot`).
    Name(String),
}

impl User {
    fn parse(text: &str) -> Self {
        let user = text.split_once(':').map_or(text, |(user, _)| user);
        if user.is_empty() {
            return Self::None;
        }
        let digits = user.bytes().all(|c| c.is_ascii_digit());
        match user.parse() {
            Ok(uid) if digits => Self::Uid(uid),
            _ => Self::Name(user.to_owned()),
        }
    }
}

/// An image's configuration: what of it a container is made from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OciConfig {
    /// When it was made, as it says.
    pub created: Option<String>,
    /// Its operating system, in Go's word.
    pub os: String,
    /// Its architecture, in Go's word.
    pub architecture: String,
    /// `user[:group]` as it is written.
    pub user: String,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// The program and its first arguments.
    pub entrypoint: Vec<String>,
    /// The program, or the arguments after `entrypoint`.
    pub cmd: Vec<String>,
    /// The directory to start in; empty is `/`.
    pub working_dir: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// The signal that ends it; empty is SIGTERM.
    pub stop_signal: String,
    /// Paths that it declares as volumes, sorted.
    pub volumes: Vec<String>,
    /// Digests of the uncompressed layers, the lowest first.
    pub diff_ids: Vec<Digest>,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    created: Option<String>,
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default, deserialize_with = "null_is_default")]
    config: RawConfig,
    rootfs: RawRootfs,
}

/// docker's words, which OCI kept.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RawConfig {
    user: String,
    #[serde(deserialize_with = "null_is_default")]
    env: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    entrypoint: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    cmd: Vec<String>,
    working_dir: String,
    #[serde(deserialize_with = "null_is_default")]
    labels: BTreeMap<String, String>,
    stop_signal: String,
    #[serde(deserialize_with = "null_is_default")]
    volumes: BTreeMap<String, serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct RawRootfs {
    #[serde(deserialize_with = "null_is_default")]
    diff_ids: Vec<Digest>,
}

impl OciConfig {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let raw: Raw = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let config = raw.config;
        Ok(Self {
            created: raw.created,
            os: raw.os,
            architecture: raw.architecture,
            user: config.user,
            env: config.env,
            entrypoint: config.entrypoint,
            cmd: config.cmd,
            working_dir: config.working_dir,
            labels: config.labels,
            stop_signal: config.stop_signal,
            volumes: config.volumes.into_keys().collect(),
            diff_ids: raw.rootfs.diff_ids,
        })
    }

    /// Nanoseconds since the epoch at which it was made.
    pub(crate) fn created_nanoseconds(&self) -> Option<i128> {
        let timestamp: jiff::Timestamp = self.created.as_deref()?.parse().ok()?;
        Some(timestamp.as_nanosecond())
    }

    /// The user, as CRI tells it.
    pub(crate) fn parsed_user(&self) -> User {
        User::parse(&self.user)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_a_number_only_if_it_is_one_that_the_kernel_takes() {
        for (text, user) in [
            ("", User::None),
            (":100", User::None),
            ("0", User::Uid(0)),
            ("1000:1000", User::Uid(1000)),
            ("4294967295", User::Uid(u32::MAX)),
            ("4294967296", User::Name("4294967296".into())),
            (
                "18446744073709551617",
                User::Name("18446744073709551617".into()),
            ),
            ("+5", User::Name("+5".into())),
            ("nobody:nogroup", User::Name("nobody".into())),
        ] {
            assert_eq!(User::parse(text), user, "{text:?}");
        }
    }

    #[test]
    fn dockers_nulls_are_empty() {
        let text = br#"{"created":"2024-02-03T04:05:06.7Z","os":"linux","architecture":"amd64","config":{"Env":null,
            "Cmd":["sh"],"Volumes":{"/b":{},"/a":{}},"Labels":null,"Entrypoint":null,"OnBuild":null},
            "rootfs":{"type":"layers","diff_ids":null},"history":[]}"#;
        let config = OciConfig::parse(text).unwrap();
        assert_eq!(config.cmd, ["sh"]);
        assert_eq!(config.volumes, ["/a", "/b"]);
        assert_eq!(
            config.created_nanoseconds(),
            Some(1_706_933_106_700_000_000)
        );
        assert!(OciConfig::parse(br#"{"config":null,"rootfs":{"diff_ids":[]}}"#).is_ok());
        assert!(OciConfig::parse(br#"{"rootfs":{"diff_ids":["sha256:zz"]}}"#).is_err());
        assert!(OciConfig::parse(b"{}").is_err());
    }
}
