//! Bounds on what strangers send.

/// Longest `/etc/passwd` or `/etc/group` of an image that is read, in bytes. Ours; real ones have
/// a few kilobytes (CVE-2025-4437, CVE-2026-47262).
pub(crate) const ACCOUNT_FILE_BYTES: usize = 4 * 1024 * 1024;
/// Largest user and group id: the kernel's are unsigned, but the peers' and POSIX's `id_t` in
/// many programs are not (CVE-2024-40635).
pub(crate) const MAX_ID: u32 = i32::MAX as u32;
/// Longest seccomp profile, in bytes. Ours; the field's largest has 30 kB.
pub(crate) const PROFILE_BYTES: usize = 4 * 1024 * 1024;
/// Longest CDI spec file, in bytes. Ours; those of nodes with many partitioned GPUs have some
/// hundred kilobytes.
pub(crate) const CDI_FILE_BYTES: usize = 16 * 1024 * 1024;
/// Longest OCI hook file, in bytes. Ours; they are written by hand.
pub(crate) const HOOK_FILE_BYTES: usize = 1024 * 1024;
