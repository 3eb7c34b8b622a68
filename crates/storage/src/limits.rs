//! Bounds on what comes from outside; each says who set it.

/// Bytes of an ID: one component of a path (the kernel's `NAME_MAX`).
pub const ID_BYTES: usize = 255;
/// Layers on top of each other (the kernel's limit of overlay lowers; containers/storage too).
pub const LOWERS: usize = 500;
/// Bytes of one PAX header, long name or long link name (as Go's archive/tar, which peers use).
pub const EXTENDED_HEADER_BYTES: u64 = 1 << 20;
/// Bytes in front of one entry's data: padding, extended headers, the header and a sparse file's
/// map, which are held until the entry is known (ours: an extended header of each kind and a map at
/// their largest fit; a stream of nothing but extended headers would grow without an end).
pub const HEADER_BYTES: usize = 8 << 20;
/// Data segments of one sparse file (ours: 1 MiB of map).
pub const SPARSE_SEGMENTS: usize = 1 << 16;
/// Bytes of a path in a layer (the kernel's `PATH_MAX`, with the NUL).
pub const PATH_BYTES: usize = 4095;
/// Bytes of all directories' paths and times of a layer, which are set last (ours: a million short ones).
pub const DIRECTORY_PATH_BYTES: usize = 128 << 20;
/// Bytes of the paths that a layer hides of those below, where they are remembered (ours: half a million).
pub const HIDDEN_PATH_BYTES: usize = 64 << 20;
/// Bytes of one component of a path in a layer (the kernel's `NAME_MAX`).
pub const NAME_BYTES: usize = 255;
/// Extended attributes of one file in a layer (ours).
pub const XATTRS: usize = 128;
/// Bytes of one extended attribute's value (the kernel's `XATTR_SIZE_MAX`).
pub const XATTR_BYTES: usize = 64 << 10;
/// Entries of a layer, unless the caller says otherwise (ours: several times the inodes of the
/// largest layers in public use).
pub const ENTRIES: u64 = 2_000_000;
/// Bytes of an uncompressed layer, unless the caller says otherwise (ours).
pub const LAYER_BYTES: u64 = 256 << 30;
/// Bytes of one JSON file of the store (ours: a peer writes it, root both).
pub const TABLE_BYTES: u64 = 512 << 20;
/// Bytes of one big data item of an image (ours: manifests and configurations are below 4 MiB).
pub const BIG_DATA_BYTES: u64 = 64 << 20;
/// Bytes of an artifact's manifest and of the index of all artifacts (as containers/image bounds a
/// manifest).
pub const INDEX_BYTES: u64 = 4 << 20;
/// Artifacts of one layout (ours).
pub const ARTIFACTS: usize = 10_000;
/// Bytes of a layer's table of contents (ours: a hundred thousand files fit; containers/storage:
/// 150 MB).
pub const TOC_BYTES: u64 = 32 << 20;
/// Bytes of one line of a tar-split (ours: a header with everything that an entry may have before
/// it, in base64).
pub const TAR_SPLIT_LINE_BYTES: u64 = 16 << 20;
/// Bytes of a `link` or `lower` file (500 short names of 28 bytes, and a colon each).
pub const LOWER_FILE_BYTES: u64 = 64 << 10;
/// Bytes of what an additional layer store says of a layer (ours; a record has some hundred).
pub(crate) const OFFERED_INFO_BYTES: u64 = 64 << 10;
/// Bytes that it may say that a layer has (ours).
pub(crate) const OFFERED_LAYER_BYTES: u64 = 1 << 40;
