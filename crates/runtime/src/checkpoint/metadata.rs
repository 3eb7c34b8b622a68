//! The JSON files of a checkpoint archive (checkpointctl, `lib/metadata.go`).

use serde::{Deserialize, Serialize};

/// Bytes of `config.dump` that are read (ours: it holds a dozen short texts).
const CONFIG_BYTES: usize = 1 << 20;
/// Bytes of `spec.dump` that are read (ours).
const SPEC_BYTES: usize = 16 << 20;
/// Bytes of `deleted.files` that are read (ours).
const DELETED_BYTES: usize = 64 << 20;

/// A file of an archive is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadMetadata(String);

/// `config.dump`: which container it was. Told, and believed of nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Config {
    /// The container's id.
    pub id: String,
    /// Its record's name.
    pub name: String,
    /// Its image as it was asked for.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub rootfs_image: String,
    /// The image's id.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub rootfs_image_ref: String,
    /// A name of the image.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub rootfs_image_name: String,
    /// The runtime handler.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub runtime: String,
    /// When it was made (RFC 3339).
    pub created_time: String,
    /// When the checkpoint was.
    pub checkpointed_time: String,
    /// When it had been restored itself.
    pub restored_time: String,
    /// Whether it had been.
    pub restored: bool,
}

impl Config {
    /// Reads a `config.dump`.
    ///
    /// # Errors
    /// [`BadMetadata`].
    pub fn parse(json: &[u8]) -> Result<Self, BadMetadata> {
        // serde takes a list for a structure, too.
        if !json.trim_ascii_start().starts_with(b"{") {
            return Err(BadMetadata("config.dump: not an object".to_owned()));
        }
        bounded(json, CONFIG_BYTES, "config.dump")
    }
}

/// What the container of a `spec.dump` (OCI runtime spec, config.md) ran.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Process {
    /// Whether it had a terminal.
    pub terminal: bool,
    /// Program and arguments.
    pub args: Vec<String>,
}

impl Process {
    /// Reads a `spec.dump`.
    ///
    /// # Errors
    /// [`BadMetadata`].
    pub fn of_spec(json: &[u8]) -> Result<Self, BadMetadata> {
        #[derive(Deserialize)]
        struct Spec {
            process: Process,
        }
        let spec: Spec = bounded(json, SPEC_BYTES, "spec.dump")?;
        Ok(spec.process)
    }
}

/// Reads `deleted.files`: absolute paths.
///
/// # Errors
/// [`BadMetadata`].
pub fn deleted(json: &[u8]) -> Result<Vec<String>, BadMetadata> {
    bounded(json, DELETED_BYTES, "deleted.files")
}

/// The name in a layer's archive that says that `path` is not there (image-spec, layer.md).
///
/// # Errors
/// [`BadMetadata`] where the path names no file.
pub fn whiteout(path: &str) -> Result<String, BadMetadata> {
    let path = path.trim_matches('/');
    let (parent, name) = path
        .rsplit_once('/')
        .map_or(("", path), |(parent, name)| (parent, name));
    if matches!(name, "" | "." | "..") || name.starts_with(".wh.") {
        return Err(BadMetadata(format!(
            "deleted.files: {path:?} names no file"
        )));
    }
    let separator = if parent.is_empty() { "" } else { "/" };
    Ok(format!("{parent}{separator}.wh.{name}"))
}

fn bounded<T: for<'a> Deserialize<'a>>(
    json: &[u8],
    most: usize,
    name: &str,
) -> Result<T, BadMetadata> {
    if json.len() > most {
        return Err(BadMetadata(format!("{name} is larger than {most} bytes")));
    }
    serde_json::from_slice(json).map_err(|wrong| BadMetadata(format!("{name}: {wrong}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_is_read_as_it_was_written_and_unknown_fields_are_passed() {
        let config = Config {
            id: "c".into(),
            rootfs_image_ref: "i".into(),
            restored: true,
            ..Config::default()
        };
        let json = serde_json::to_string(&config).unwrap();
        assert!(json.contains("\"rootfsImageRef\":\"i\""), "{json}");
        assert_eq!(Config::parse(json.as_bytes()).unwrap(), config);
        assert!(Config::parse(br#"{"id":"x","more":[1]}"#).is_ok());
        assert!(Config::parse(b"[]").is_err());
    }

    #[test]
    fn a_spec_tells_whether_there_was_a_terminal() {
        for (json, told) in [
            (
                &br#"{"process":{"terminal":true,"args":[]}}"#[..],
                Some(true),
            ),
            (br#"{"process":{"args":["sh"]},"mounts":[]}"#, Some(false)),
            (br#"{"process":{"terminal":"yes"}}"#, None),
            (br#"{"linux":{}}"#, None),
        ] {
            let process = Process::of_spec(json);
            let terminal = process.map(|process| process.terminal);
            assert_eq!(terminal.ok(), told, "{}", json.escape_ascii());
        }
    }

    #[test]
    fn deleted_paths_become_whiteouts() {
        for (path, name) in [
            ("/etc/a", Some("etc/.wh.a")),
            ("b", Some(".wh.b")),
            ("/c/d/", Some("c/.wh.d")),
            ("/", None),
            ("", None),
            ("/a/..", None),
            ("/a/.wh..opq", None),
        ] {
            assert_eq!(whiteout(path).ok().as_deref(), name, "{path}");
        }
        assert_eq!(deleted(br#"["/a"]"#).unwrap(), ["/a"]);
        assert!(deleted(br#"{"a":1}"#).is_err());
    }
}
