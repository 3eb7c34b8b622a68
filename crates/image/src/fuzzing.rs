//! What the fuzz targets do with this crate's decoders: each function takes any bytes and fails
//! where a decoder breaks a promise.

use std::fs::File;
use std::io::{self, BufReader, Read, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::Path;

use serde_json::{Value, json};

use crate::chunked;
use crate::client::challenges;
use crate::credentials::{Credentials, find};
use crate::decompress;
use crate::decrypt;
use crate::image::OciConfig;
use crate::limits;
use crate::local::{Bundle, Location, Transport};
use crate::manifest::{Descriptor, Document, OCI_INDEX, OCI_MANIFEST};
use crate::pull::{parse_attachments, parse_signature_list};
use crate::reference::{ImageName, Reference};
use crate::registries::Registries;
use crate::signatures;

/// Lists of attachments: few and small, and what a slow reader finds in the same bytes.
pub fn attachments(bytes: &[u8]) {
    let Ok(listed) = parse_attachments(bytes) else {
        return;
    };
    assert!(listed.len() <= trust::limits::SIGNATURES);
    let total: u64 = listed.iter().map(|one| one.descriptor.size).sum();
    assert!(total <= limits::SIGNATURES_BYTES as u64);
    // It also reads what we pass over, and doesn't take all of that.
    let Ok(slow) = serde_json::from_slice::<Value>(bytes) else {
        return;
    };
    let layers = slow["layers"].as_array().expect("a list");
    assert_eq!(layers.len(), listed.len());
    // One that comes as a list of its fields, which serde takes too, has no names to compare.
    let objects = listed.iter().zip(layers);
    for (one, slow) in objects.filter(|(_, slow)| slow.is_object()) {
        assert_eq!(slow["digest"], one.descriptor.digest.as_str());
        assert_eq!(slow["size"], one.descriptor.size);
        for (key, value) in &one.annotations {
            assert_eq!(slow["annotations"][key], value.as_str());
        }
    }
}

/// Lists of signatures that a registry keeps: each is one that the list has.
pub fn signature_list(bytes: &[u8]) {
    use base64::Engine as _;
    let Ok(found) = parse_signature_list(bytes) else {
        return;
    };
    // It also reads what we pass over, and doesn't take all of that.
    let Ok(slow) = serde_json::from_slice::<Value>(bytes) else {
        return;
    };
    let mut listed = slow["signatures"].as_array().into_iter().flatten();
    for signature in found {
        let content = signature.encode();
        let text = base64::engine::general_purpose::STANDARD.encode(&content);
        assert!(listed.any(|one| one["content"] == text && one["type"] == "atomic"));
        assert_eq!(trust::Signature::parse(&content), Ok(signature));
    }
}

/// Signatures that are kept with an artifact: few, and the same when they are kept again.
pub fn kept_signatures(bytes: &[u8]) {
    let found = signatures::decode(bytes);
    assert!(found.len() <= trust::limits::SIGNATURES);
    // A simple one that named its form without being of it is gone with that name.
    let encode = |signatures: &[trust::Signature]| {
        let blobs: Vec<_> = signatures.iter().map(trust::Signature::encode).collect();
        signatures::encode(&blobs)
    };
    let kept = signatures::decode(&encode(&found));
    assert!(kept.iter().all(|one| found.contains(one)));
    assert_eq!(signatures::decode(&encode(&kept)), kept);
}

/// Answers of key providers: what is read is in the answer, and read again when it is written.
pub fn provider_answer(bytes: &[u8]) {
    if let Some(value) = decrypt::provider_answer(bytes) {
        assert!(bytes.ends_with(&value));
        let written = decrypt::provider_request(&value);
        assert!(written.len() <= bytes.len());
        assert_eq!(decrypt::provider_answer(&written), Some(value));
    }
}

/// Manifests and indexes: bounded, never both at once, and the same when they are written again.
pub fn manifest(bytes: &[u8]) {
    let document = Document::parse(bytes);
    let artifact_type = match document {
        Ok(Document::Artifact(_)) => "x",
        _ => "",
    };
    let written = match document {
        Err(_) => return,
        Ok(Document::Image(image) | Document::Artifact(image)) => {
            assert!(image.layers.len() <= limits::LAYERS);
            assert!(image.config.size <= limits::CONFIG_BYTES as u64);
            assert!(
                image
                    .layers
                    .iter()
                    .all(|layer| layer.size <= limits::BLOB_BYTES)
            );
            let layers: Vec<_> = image.layers.iter().map(descriptor).collect();
            json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": artifact_type, "layers": layers,
                "config": descriptor(&image.config), "annotations": image.annotations})
        }
        Ok(Document::Index(entries)) => {
            assert!(entries.len() <= limits::INDEX_ENTRIES);
            let entries: Vec<_> = entries
                .iter()
                .map(|one| descriptor(&one.descriptor))
                .collect();
            json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})
        }
    };
    let again = Document::parse(written.to_string().as_bytes()).expect("our own document");
    // A slow reader finds the same in the bytes as they came; it also reads what we pass over, and
    // doesn't take all of that.
    let Ok(raw) = serde_json::from_slice::<Value>(bytes) else {
        return;
    };
    let digests = |list: &Value| -> Vec<String> {
        let list = list.as_array().into_iter().flatten();
        list.map(|one| one["digest"].as_str().unwrap_or_default().to_owned())
            .collect()
    };
    match again {
        Document::Image(image) | Document::Artifact(image) => {
            assert!(raw["manifests"].is_null(), "image and index at once");
            let found: Vec<_> = image
                .layers
                .iter()
                .map(|one| one.digest.to_string())
                .collect();
            assert_eq!(found, digests(&raw["layers"]));
            assert_eq!(raw["config"]["digest"], json!(image.config.digest.as_str()));
        }
        Document::Index(entries) => {
            assert!(
                raw["layers"].is_null() && raw["config"].is_null(),
                "image and index at once"
            );
            let found = entries.iter().map(|one| one.descriptor.digest.to_string());
            assert_eq!(found.collect::<Vec<_>>(), digests(&raw["manifests"]));
        }
    }
}

fn descriptor(of: &Descriptor) -> Value {
    json!({"mediaType": of.media_type, "digest": of.digest.as_str(), "size": of.size})
}

/// Images' configurations: the same when they are written again.
pub fn config(bytes: &[u8]) {
    let Ok(config) = OciConfig::parse(bytes) else {
        return;
    };
    let _user = (config.parsed_user(), config.created_nanoseconds());
    let volumes: serde_json::Map<_, _> = config
        .volumes
        .iter()
        .map(|volume| (volume.clone(), json!({})))
        .collect();
    let diff_ids: Vec<_> = config.diff_ids.iter().map(|id| id.as_str()).collect();
    let written = json!({"created": config.created, "os": config.os,
        "architecture": config.architecture, "rootfs": {"diff_ids": diff_ids},
        "config": {"User": config.user, "Env": config.env, "Entrypoint": config.entrypoint,
            "Cmd": config.cmd, "WorkingDir": config.working_dir, "Labels": config.labels,
            "StopSignal": config.stop_signal, "Volumes": volumes}});
    assert_eq!(OciConfig::parse(written.to_string().as_bytes()), Ok(config));
}

/// References: bounded, and the same when they are read again, also by the name in the store.
pub fn reference(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let Ok(name) = text.parse::<ImageName>() else {
        return;
    };
    assert!(text.len() <= limits::REFERENCE_BYTES);
    match &name {
        ImageName::Full(reference) => {
            assert_eq!(reference.to_string().parse().ok(), Some(name.clone()));
            assert!(reference.repository().len() <= limits::REPOSITORY_BYTES);
            assert!(
                !reference
                    .path()
                    .split('/')
                    .any(|part| matches!(part, "" | "." | ".."))
            );
            let stored: Reference = reference
                .stored_name()
                .parse()
                .expect("a name of the store");
            assert_eq!(stored.stored_name(), reference.stored_name());
        }
        ImageName::Short(short) => {
            assert_eq!(short.to_string().parse().ok(), Some(name.clone()));
            let full = short.at(&format!("docker.io/{}", short.name()));
            let is_long =
                short.name().len() + "docker.io/library/".len() > limits::REPOSITORY_BYTES;
            assert!(full.map_or(is_long, |full| full.host() == "docker.io"));
        }
    }
}

/// What a pull's own process says: each message is the same when it is sent again.
pub fn pull_message(bytes: &[u8]) {
    crate::worker::fuzz(bytes);
}

/// Credentials: a name and a password come back from their `auth`, and a file gives the same answer
/// each time, that of its longest fitting key.
pub fn credentials(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        if let Ok(Credentials::Basic { username, password }) = Credentials::from_auth(text) {
            assert!(!username.contains(':') && !password.ends_with('\0'));
            let header = Credentials::basic(&username, &password);
            let again = Credentials::from_auth(header.strip_prefix("Basic ").unwrap_or_default());
            assert_eq!(again, Ok(Credentials::Basic { username, password }));
        }
        challenges(text);
    }
    for repository in [
        "a.io/b/c",
        "a.io/b/cd",
        "docker.io/library/x",
        "localhost:5000/x",
    ] {
        let Ok(found) = find(bytes, repository) else {
            continue;
        };
        for _ in 0..3 {
            assert_eq!(
                find(bytes, repository).ok(),
                Some(found.clone()),
                "{repository}"
            );
        }
    }
}

/// registries.conf: a file that is read twice says the same, and every reference is fetched from
/// somewhere, last from a registry that is no mirror.
pub fn registries(bytes: &[u8]) {
    let path = Path::new("registries.conf");
    let mut once = Registries::default();
    if once.add_content(path, bytes).is_err() {
        return;
    }
    let mut twice = Registries::default();
    for _ in 0..2 {
        twice.add_content(path, bytes).expect("it was read before");
    }
    assert_eq!(format!("{once:?}"), format!("{twice:?}"));
    for text in [
        "a.io/b/c:v1",
        "x.a.io:5000/b",
        "docker.io/library/x",
        "short",
        "team/short:v1",
    ] {
        let name: ImageName = text.parse().expect("a good name");
        for reference in once.candidates(&name).into_iter().flatten() {
            let Ok(sources) = once.sources(&reference) else {
                continue;
            };
            let (last, mirrors) = sources.split_last().expect("at least the registry");
            assert!(!last.mirror && mirrors.iter().all(|mirror| mirror.mirror));
            for source in &sources {
                assert_eq!(source.reference.tag(), reference.tag());
                assert_eq!(source.reference.digest(), reference.digest());
            }
        }
    }
}

/// Archives that hold images: what is found stands in the archive with the digest that it is called
/// by, and nothing else of the node is read.
pub fn bundle(bytes: &[u8]) {
    let file = rustix::fs::memfd_create("bundle", rustix::fs::MemfdFlags::CLOEXEC);
    let mut file = File::from(file.expect("a file in memory"));
    file.write_all(bytes).expect("room for it");
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let limits = storage::UnpackLimits {
        bytes: PLAIN_BYTES,
        ..storage::UnpackLimits::default()
    };
    for transport in [Transport::DockerArchive, Transport::OciArchive] {
        let location = Location {
            transport,
            path: path.clone().into(),
            which: None,
        };
        let Ok(bundle) = Bundle::open(&location, limits, &std::env::temp_dir()) else {
            continue;
        };
        let first = bundle.manifest(None, limits::MANIFEST_BYTES);
        let first = first.expect("it was found");
        assert!(first.len() <= limits::MANIFEST_BYTES);
        let Ok(Document::Image(manifest)) = Document::parse(&first) else {
            assert_eq!(transport, Transport::OciArchive, "ours is good");
            continue;
        };
        let wanted = manifest.layers.iter().chain([&manifest.config]);
        for Descriptor { digest, size, .. } in wanted {
            let blob = match bundle.blob(digest) {
                Ok(blob) => blob,
                Err(_) if transport == Transport::OciArchive => continue,
                Err(error) => panic!("{digest} was listed: {error}"),
            };
            let mut content = Vec::new();
            let read = blob.take(PLAIN_BYTES + 1).read_to_end(&mut content);
            let read = read.expect("its place is within the archive");
            assert!(read as u64 <= PLAIN_BYTES);
            if transport == Transport::DockerArchive {
                assert_eq!(
                    (storage::Digest::of(&content), read as u64),
                    (digest.clone(), *size)
                );
            }
        }
    }
}

/// Bytes of a layer that are inflated.
const PLAIN_BYTES: u64 = 1 << 20;

/// Layers' compressions: what is inflated does not depend on the pieces that come, bytes come back
/// from what they are compressed to, and the two readers of gzip agree.
pub fn inflate(bytes: &[u8]) {
    let whole = inflated(bytes, 64 << 10);
    assert_eq!(inflated(bytes, 1), whole);
    assert_eq!(inflated(bytes, 7), whole);
    if bytes.starts_with(&[0x1f, 0x8b]) {
        let other = storage::fuzzing::gunzip(bytes, PLAIN_BYTES);
        assert_eq!(other.ok(), whole);
    }
    let gzip = storage::fuzzing::gzip(bytes);
    let zstd = zstd::stream::encode_all(bytes, 1).expect("a vector takes all");
    let mut bzip2 = Vec::new();
    let mut encoder = bzip2::read::BzEncoder::new(bytes, bzip2::Compression::fast());
    encoder.read_to_end(&mut bzip2).expect("a vector takes all");
    for packed in [gzip, zstd, bzip2, xz(bytes)] {
        assert_eq!(inflated(&packed, 7).as_deref(), Some(bytes));
        let two = [&packed[..], &packed].concat();
        assert_eq!(inflated(&two, 64), Some([bytes, bytes].concat()));
        let cut = packed.get(..packed.len() - 1).unwrap_or_default();
        assert_eq!(inflated(cut, 64), None, "a cut is seen");
    }
}

/// Encrypted layers: what was encrypted comes back however it is cut, and nothing that was changed
/// does; a wrapped key that we did not make does not open.
pub fn encrypted(bytes: &[u8]) {
    let opened = decrypt::jwe::open(bytes, &[decrypt::jwe::test_key()]);
    assert!(opened.is_err(), "a stranger's key");
    decrypt::pkcs7::fuzz(bytes);
    let (mut sealed, secret) = decrypt::cipher::encrypt(bytes);
    let read = |sealed: &[u8]| -> io::Result<Vec<u8>> {
        let mut reader = decrypt::Decryptor::new(BufReader::with_capacity(7, sealed), &secret)?;
        let mut plain = Vec::new();
        reader.read_to_end(&mut plain)?;
        reader.finish()?;
        Ok(plain)
    };
    assert_eq!(read(&sealed).ok().as_deref(), Some(bytes));
    if let Some(byte) = sealed.last_mut() {
        *byte ^= 1;
        assert!(read(&sealed).is_err(), "a change is seen");
    }
}

/// Tables of contents and tar-splits: places stay in the blob, names are told once, and what was
/// changed on the way is not read.
pub fn chunked(bytes: &[u8]) {
    const END: u64 = 1 << 20;
    chunked::fuzz(bytes, END);
    let mut bytes_of_files = 0_u64;
    for part in storage::archive_parts(bytes).map_while(Result::ok) {
        if let storage::ArchivePart::File { size, .. } = part {
            assert!(size > 0, "a file without bytes is no part");
            bytes_of_files = bytes_of_files.saturating_add(size);
        }
    }
}

fn xz(bytes: &[u8]) -> Vec<u8> {
    let options = lzma_rust2::XzOptions::with_preset(0);
    let mut writer = lzma_rust2::XzWriter::new(Vec::new(), options).expect("a preset's options");
    writer.write_all(bytes).expect("a vector takes all");
    writer.finish().expect("a vector takes all")
}

fn inflated(bytes: &[u8], piece: usize) -> Option<Vec<u8>> {
    let head = bytes.get(..6).unwrap_or(bytes);
    let read = || -> io::Result<Vec<u8>> {
        let compression = decompress::by_magic(head);
        let blob = BufReader::with_capacity(piece, bytes);
        let mut plain = Vec::new();
        let reader = decompress::reader(compression, blob)?;
        reader.take(PLAIN_BYTES).read_to_end(&mut plain)?;
        Ok(plain)
    };
    read().ok()
}
