//! Bounds on what registries, their configuration and references may send or say.

/// Bytes of a manifest or an index (containers/image).
pub const MANIFEST_BYTES: usize = 4 << 20;
/// Bytes of an image's configuration (ours; as manifests).
pub const CONFIG_BYTES: usize = 4 << 20;
/// Bytes of all signatures of an image (ours).
pub const SIGNATURES_BYTES: usize = 16 << 20;
/// Bytes of a registry's list of the signatures that it keeps for a manifest (containers/image).
pub const SIGNATURE_LIST_BYTES: usize = 4 << 20;
/// Bytes of an artifact's signatures as they are kept: all of them, and a line of their lengths.
pub const KEPT_SIGNATURES_BYTES: u64 = SIGNATURES_BYTES as u64 + 4096;
/// Bytes of a token service's answer (containers/image).
pub const TOKEN_BYTES: usize = 4 << 20;
/// Bytes of an error's body that is looked at (ours).
pub const ERROR_BODY_BYTES: usize = 64 << 10;
/// Bytes of a registry's words that an error quotes (ours).
pub const QUOTED_BYTES: usize = 512;
/// Redirects followed for one request (as most HTTP clients).
pub const REDIRECTS: usize = 10;
/// Times that one request is repeated for 429, 502, 503 and 504 (ours).
pub const REPEATS: u32 = 4;
/// Times that a blob's download is resumed without [`FRUITFUL_BYTES`] in between (ours).
pub const FRUITLESS_RESUMES: u32 = 4;
/// Bytes that make a connection worth its while (ours: about what the minimum rate asks of a minute).
pub const FRUITFUL_BYTES: u64 = 64 << 10;
/// Bytes of one part of a blob that is fetched ahead of its turn (ours).
pub const STRETCH_BYTES: u64 = 4 << 20;
/// Such parts in memory, over all pulls (ours: 32 MiB).
pub const STRETCHES_AHEAD: usize = 8;
/// Such parts of one blob, each with a connection of its own (ours; registries count them).
pub const CONNECTIONS_AHEAD: usize = 3;
/// Layers of one image (the kernel's limit of overlay lowers is 500).
pub const LAYERS: usize = 500;
/// Manifests of one index (ours).
pub const INDEX_ENTRIES: usize = 1000;
/// An index in an index in an index (ours; nobody has been seen to nest twice).
pub const INDEX_DEPTH: usize = 3;
/// Members of an archive that holds an image (ours: some for each layer of a hundred images).
pub const ARCHIVE_MEMBERS: u64 = 100_000;
/// Links to links in such an archive (ours; docker writes none to a link).
pub const ARCHIVE_LINKS: usize = 8;
/// Bytes of a layer's blob (ours).
pub const BLOB_BYTES: u64 = 256 << 30;
/// Bytes of one JSON or TOML file of configuration (ours).
pub const FILE_BYTES: u64 = 4 << 20;
/// Bytes of a message between the daemon and a worker (ours: 500 layers take a tenth).
pub const WORKER_MESSAGE_BYTES: usize = 1 << 20;
/// Bytes of a repository's name (distribution-spec).
pub const REPOSITORY_BYTES: usize = 255;
/// Bytes of a tag (distribution-spec).
pub const TAG_BYTES: usize = 128;
/// Bytes of a reference as it is asked for (ours: name, tag and a SHA-512 digest fit).
pub const REFERENCE_BYTES: usize = 1024;
/// Largest window of a zstd frame as a power of two (zstd's own default: 128 MiB).
pub const ZSTD_WINDOW_LOG: u32 = 27;
/// KiB of memory that an xz stream's dictionary may take (that of preset 9, 64 MiB, fits).
pub const XZ_MEMORY_KIB: u32 = 72 << 10;
/// Recipients of one wrapped key (ours).
pub const RECIPIENTS: usize = 100;
/// Bytes of a key provider's answer (ours; a wrapped key is some hundred).
pub const KEY_ANSWER_BYTES: usize = 1 << 20;
/// Files of keys (ours).
pub const KEYS: usize = 1000;
/// Bytes of a file with a key (ours: RSA with 16384 bits takes a fifth).
pub const KEY_BYTES: u64 = 64 << 10;
/// Directories in directories of keys (ours; a Kubernetes secret has none).
pub const KEY_DIRECTORIES: usize = 8;
/// Bytes of a zstd:chunked layer's table of contents, decompressed.
pub const TOC_BYTES: u64 = storage::TOC_BYTES;
/// Bytes of it, and of the tar-split, as they are in the blob (ours: a hundred thousand files fit; a layer of more is
/// fetched whole).
pub const TOC_COMPRESSED_BYTES: u64 = 8 << 20;
/// Bytes of a tar-split, decompressed; it is never held whole (ours).
pub const TAR_SPLIT_BYTES: u64 = 2 << 30;
/// Bytes between two parts of a blob that are fetched along, rather than asked for anew (ours).
pub const SPAN_GAP: u64 = 64 << 10;
/// Pieces of a blob between the network and the thread that unpacks it; one is at most
/// [`HTTP_BUFFER_BYTES`].
pub const PIECES: usize = 8;
/// Bytes that one connection reads ahead.
pub const HTTP_BUFFER_BYTES: usize = 128 << 10;
