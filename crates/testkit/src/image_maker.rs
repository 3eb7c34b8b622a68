//! Images made from files in memory, or from Debian's busybox.

use std::io::Write;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::{Map, Value, json};
use sys::spawn::{Program, run};
use zlib_rs::{Deflate, DeflateFlush, Status};

// Said, so that `image`'s own tests can include this file: they can't depend on this crate, which
// depends on `image`.
#[path = "image_maker/artifact.rs"]
mod artifact;
#[path = "image_maker/tar.rs"]
mod tar;

pub use artifact::{ArtifactMaker, MadeArtifact};
pub use tar::{Entry, Kind, archive};

/// How layers are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip.
    #[default]
    Gzip,
    /// Zstandard.
    Zstd,
    /// bzip2.
    Bzip2,
    /// xz.
    Xz,
}

/// Whose media types are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// OCI's.
    #[default]
    Oci,
    /// docker's version 2, schema 2.
    Docker,
}

/// Bytes and their digest.
#[derive(Clone, Debug)]
pub struct Blob {
    bytes: Vec<u8>,
    digest: String,
}

impl Blob {
    /// Of these bytes.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self {
            digest: digest(&bytes),
            bytes,
        }
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// `sha256:…`
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }
}

/// The SHA-256 digest of bytes, `sha256:…`.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    let hex: String = hash
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("sha256:{hex}")
}

/// Collects what an image is to be.
#[derive(Clone, Debug)]
pub struct ImageMaker {
    format: Format,
    compression: Compression,
    /// Uncompressed archives, the lowest first.
    layers: Vec<Vec<u8>>,
    config: Map<String, Value>,
    annotations: Map<String, Value>,
    architecture: String,
}

impl Default for ImageMaker {
    fn default() -> Self {
        Self::new()
    }
}

impl ImageMaker {
    /// An image without layers.
    #[must_use]
    pub fn new() -> Self {
        Self {
            format: Format::default(),
            compression: Compression::default(),
            layers: Vec::new(),
            config: Map::new(),
            annotations: Map::new(),
            architecture: go_architecture().to_owned(),
        }
    }

    /// One layer with Debian's busybox, its libraries, its applets and a small `/etc`; `sh` is
    /// its command.
    #[must_use]
    pub fn busybox() -> Self {
        Self::new()
            .archive(busybox_archive().to_vec())
            .cmd(&["sh"])
            .env("PATH", "/bin:/usr/bin")
    }

    /// Adds a layer of entries.
    #[must_use]
    pub fn layer(self, entries: &[Entry]) -> Self {
        self.archive(archive(entries))
    }

    /// Adds a layer that is these bytes, uncompressed.
    #[must_use]
    pub fn archive(mut self, archive: Vec<u8>) -> Self {
        self.layers.push(archive);
        self
    }

    /// Chooses the media types.
    #[must_use]
    pub fn format(mut self, format: Format) -> Self {
        self.format = format;
        self
    }

    /// Chooses the compression of all layers.
    #[must_use]
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// Chooses the architecture, in Go's word.
    #[must_use]
    pub fn architecture(mut self, architecture: &str) -> Self {
        architecture.clone_into(&mut self.architecture);
        self
    }

    /// Sets a field of the configuration's `config`, in docker's spelling (`User`, `Labels`).
    #[must_use]
    pub fn config(mut self, field: &str, value: Value) -> Self {
        self.config.insert(field.to_owned(), value);
        self
    }

    /// Sets the entry point.
    #[must_use]
    pub fn entrypoint(self, args: &[&str]) -> Self {
        self.config("Entrypoint", json!(args))
    }

    /// Sets the command.
    #[must_use]
    pub fn cmd(self, args: &[&str]) -> Self {
        self.config("Cmd", json!(args))
    }

    /// Sets the user.
    #[must_use]
    pub fn user(self, user: &str) -> Self {
        self.config("User", json!(user))
    }

    /// Adds a variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        let env = self.config.entry("Env").or_insert_with(|| json!([]));
        if let Some(env) = env.as_array_mut() {
            env.push(json!(format!("{name}={value}")));
        }
        self
    }

    /// Adds an annotation to the manifest (OCI only).
    #[must_use]
    pub fn annotation(mut self, name: &str, value: &str) -> Self {
        self.annotations.insert(name.to_owned(), json!(value));
        self
    }

    /// Makes it.
    #[must_use]
    pub fn build(&self) -> MadeImage {
        let layers: Vec<_> = self
            .layers
            .iter()
            .map(|tar| Blob::new(compress(tar, self.compression)))
            .collect();
        let diff_ids: Vec<_> = self.layers.iter().map(|tar| digest(tar)).collect();
        let config = json!({
            "created": "2024-01-02T03:04:05Z",
            "architecture": self.architecture,
            "os": "linux",
            "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": [],
        });
        let config = Blob::new(config.to_string().into_bytes());
        let types = self.types();
        let describe = |media_type: &str, blob: &Blob| json!({"mediaType": media_type, "digest": blob.digest, "size": blob.bytes.len()});
        let mut manifest = json!({
            "schemaVersion": 2,
            "mediaType": types.manifest,
            "config": describe(types.config, &config),
            "layers": layers.iter().map(|blob| describe(&types.layer, blob)).collect::<Vec<_>>(),
        });
        if !self.annotations.is_empty() {
            manifest["annotations"] = Value::Object(self.annotations.clone());
        }
        MadeImage {
            layers,
            config,
            manifest: Blob::new(manifest.to_string().into_bytes()),
            media_type: types.manifest,
            architecture: self.architecture.clone(),
        }
    }

    fn types(&self) -> Types {
        match self.format {
            Format::Oci => Types {
                manifest: "application/vnd.oci.image.manifest.v1+json",
                config: "application/vnd.oci.image.config.v1+json",
                layer: match self.compression {
                    Compression::None => "application/vnd.oci.image.layer.v1.tar",
                    Compression::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
                    Compression::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
                    // No specification has a type for them: readers go by the content.
                    Compression::Bzip2 | Compression::Xz => {
                        "application/vnd.oci.image.layer.v1.tar+gzip"
                    }
                }
                .to_owned(),
            },
            Format::Docker => Types {
                manifest: "application/vnd.docker.distribution.manifest.v2+json",
                config: "application/vnd.docker.container.image.v1+json",
                layer: match self.compression {
                    Compression::None => "application/vnd.docker.image.rootfs.diff.tar",
                    _ => "application/vnd.docker.image.rootfs.diff.tar.gzip",
                }
                .to_owned(),
            },
        }
    }
}

struct Types {
    manifest: &'static str,
    config: &'static str,
    layer: String,
}

/// An image's blobs and manifest.
#[derive(Clone, Debug)]
pub struct MadeImage {
    layers: Vec<Blob>,
    config: Blob,
    manifest: Blob,
    media_type: &'static str,
    architecture: String,
}

impl MadeImage {
    /// Its layers as they are pushed.
    #[must_use]
    pub fn layers(&self) -> &[Blob] {
        &self.layers
    }

    /// Its configuration.
    #[must_use]
    pub fn config(&self) -> &Blob {
        &self.config
    }

    /// Its manifest.
    #[must_use]
    pub fn manifest(&self) -> &[u8] {
        self.manifest.bytes()
    }

    /// Its manifest's media type.
    #[must_use]
    pub fn media_type(&self) -> &'static str {
        self.media_type
    }

    /// Its manifest's digest.
    #[must_use]
    pub fn digest(&self) -> String {
        self.manifest.digest.clone()
    }

    /// The ID that it has in a store.
    #[must_use]
    pub fn id(&self) -> &str {
        self.config.digest.trim_start_matches("sha256:")
    }
}

/// Images of several platforms.
#[derive(Clone, Debug)]
pub struct Index {
    images: Vec<MadeImage>,
    manifest: Blob,
    media_type: &'static str,
}

impl Index {
    /// An index of images, in their order.
    #[must_use]
    pub fn of(format: Format, images: &[MadeImage]) -> Self {
        let media_type = match format {
            Format::Oci => "application/vnd.oci.image.index.v1+json",
            Format::Docker => "application/vnd.docker.distribution.manifest.list.v2+json",
        };
        let entries: Vec<_> = images
            .iter()
            .map(|image| {
                json!({"mediaType": image.media_type, "digest": image.manifest.digest,
                    "size": image.manifest.bytes.len(),
                    "platform": {"os": "linux", "architecture": image.architecture}})
            })
            .collect();
        let manifest = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": entries});
        let manifest = Blob::new(manifest.to_string().into_bytes());
        Self {
            images: images.to_vec(),
            manifest,
            media_type,
        }
    }

    /// Its images.
    #[must_use]
    pub fn images(&self) -> &[MadeImage] {
        &self.images
    }

    /// Its bytes.
    #[must_use]
    pub fn manifest(&self) -> &[u8] {
        self.manifest.bytes()
    }

    /// Its media type.
    #[must_use]
    pub fn media_type(&self) -> &'static str {
        self.media_type
    }

    /// Its digest.
    #[must_use]
    pub fn digest(&self) -> &str {
        self.manifest.digest()
    }
}

/// Compresses a layer.
///
/// # Panics
/// A compressor fails on memory, which it does not.
#[must_use]
pub fn compress(bytes: &[u8], compression: Compression) -> Vec<u8> {
    match compression {
        Compression::None => bytes.to_vec(),
        Compression::Gzip => gzip(bytes),
        Compression::Zstd => {
            let mut encoder =
                zstd::stream::write::Encoder::new(Vec::new(), 1).expect("the level is one");
            encoder.write_all(bytes).expect("memory takes all");
            encoder.finish().expect("memory takes all")
        }
        Compression::Bzip2 => {
            let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
            encoder.write_all(bytes).expect("memory takes all");
            encoder.finish().expect("memory takes all")
        }
        Compression::Xz => {
            let options = lzma_rust2::XzOptions::with_preset(1);
            let mut writer =
                lzma_rust2::XzWriter::new(Vec::new(), options).expect("a preset's options");
            writer.write_all(bytes).expect("memory takes all");
            writer.finish().expect("memory takes all")
        }
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    // 15 bits of window, and 16 for gzip's header.
    let mut deflate = Deflate::new(1, true, 15 + 16);
    let mut buffer = vec![0; bytes.len() + bytes.len() / 100 + 1000];
    let status = deflate.compress(bytes, &mut buffer, DeflateFlush::Finish);
    assert_eq!(
        status.ok(),
        Some(Status::StreamEnd),
        "the buffer is large enough"
    );
    buffer.truncate(usize::try_from(deflate.total_out()).expect("it fits the buffer"));
    buffer
}

/// This machine's architecture in Go's word.
#[must_use]
pub fn go_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Debian's busybox (it looks its applets up on disk), read once.
fn busybox_archive() -> &'static [u8] {
    static ARCHIVE: OnceLock<Vec<u8>> = OnceLock::new();
    ARCHIVE.get_or_init(|| {
        let mut entries: Vec<Entry> = [
            "bin", "dev", "etc", "home", "lib", "lib64", "proc", "root", "run", "sys", "usr",
            "usr/bin", "var",
        ]
        .into_iter()
        .map(|name| Entry::directory(name, 0o755))
        .collect();
        entries.push(Entry::directory("tmp", 0o1777));
        entries.push(Entry::file("etc/passwd", 0o644, PASSWD));
        entries.push(Entry::file("etc/group", 0o644, GROUP));
        entries.push(Entry::file("bin/busybox", 0o755, read("/usr/bin/busybox")));
        entries.extend(libraries(Path::new("/usr/bin/busybox")));
        for applet in output("/usr/bin/busybox", &["--list"]).split_whitespace() {
            if applet != "busybox" {
                // Hard links: who masks one applet's path does not mask all of them.
                entries.push(Entry::hardlink(&format!("bin/{applet}"), "bin/busybox"));
            }
        }
        archive(&once(entries))
    })
}

/// Each name once: some tools take no archive that has one twice.
fn once(mut entries: Vec<Entry>) -> Vec<Entry> {
    let mut seen = std::collections::HashSet::new();
    entries.retain(|entry| seen.insert(entry.name.clone()));
    entries
}

/// Programs of this machine at their own paths, with their libraries.
///
/// # Panics
/// One isn't installed.
#[must_use]
pub fn programs(paths: &[&Path]) -> Vec<Entry> {
    let mut entries = Vec::new();
    for path in paths {
        let name = path.to_string_lossy();
        let name = name.trim_start_matches('/');
        entries.extend(parents(name));
        entries.push(Entry::file(name, 0o755, read(&path.to_string_lossy())));
        entries.extend(libraries(path));
    }
    once(entries)
}

/// The libraries that a program is linked with.
///
/// # Panics
/// One isn't installed.
#[must_use]
pub fn libraries(program: &Path) -> Vec<Entry> {
    let mut entries = Vec::new();
    let linked = output("/usr/bin/ldd", &[&program.to_string_lossy()]);
    for library in linked.split_whitespace() {
        if library.starts_with('/') {
            let name = library.trim_start_matches('/');
            entries.extend(parents(name));
            entries.push(Entry::file(name, 0o755, read(library)));
        }
    }
    once(entries)
}

const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/:/bin/false\n\
    user:x:1000:1000:user:/home:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n";
const GROUP: &[u8] = b"root:x:0:\ndaemon:x:1:\nusers:x:100:user\nuser:x:1000:\nnogroup:x:65534:\n";

/// Directories above a file, but those of the first level.
fn parents(name: &str) -> Vec<Entry> {
    let path = Path::new(name);
    let above = path
        .ancestors()
        .skip(1)
        .filter(|above| above.components().count() > 1);
    above
        .filter_map(Path::to_str)
        .map(|above| Entry::directory(above, 0o755))
        .collect()
}

fn read(path: &str) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn output(program: &str, args: &[&str]) -> String {
    let program = Program::new(program, Duration::from_secs(30))
        .args(args.iter().copied())
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    let output = run(&program).unwrap_or_else(|error| panic!("{error}"));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
