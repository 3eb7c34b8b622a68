//! Bounds on what signers, registries and administrators may send or write.

/// Bytes of a policy file (ours; keys may be embedded).
pub(crate) const POLICY_BYTES: u64 = 4 << 20;
/// Bytes of one file of `registries.d` (ours).
pub(crate) const SOURCES_BYTES: u64 = 1 << 20;
/// Files of `registries.d` (ours).
pub(crate) const SOURCES_FILES: usize = 1000;
/// Bytes of one file of keys or certificates (ours).
pub(crate) const KEY_BYTES: u64 = 4 << 20;
/// Bytes of one signature with all that belongs to it (containers/image).
pub const SIGNATURE_BYTES: usize = 4 << 20;
/// Signatures of one image that are looked at (containers/image).
pub const SIGNATURES: usize = 128;
/// Bytes of an OpenPGP message, as it comes and unpacked (ours): twice what it may sign.
pub(crate) const MESSAGE_BYTES: usize = 512 << 10;
/// Bytes of what a signature is made over (ours; it is a short JSON text).
pub(crate) const PAYLOAD_BYTES: usize = 256 << 10;
/// Bytes of an image's name (distribution-spec).
pub(crate) const NAME_BYTES: usize = 255;
/// Bytes of a tag (distribution-spec).
pub(crate) const TAG_BYTES: usize = 128;
