//! Bounds of what a message may contain. All are ours.

/// A whole message. A packet has to fit the socket's buffer in one piece.
pub const MESSAGE_BYTES: usize = 60 * 1024;
/// One string: paths are at most `PATH_MAX`, error texts are cut to this.
pub const TEXT_BYTES: usize = 4096;
/// Elements of a list: arguments, variables, containers of a pod.
pub const LIST_ITEMS: usize = 512;
/// An id of a container or an exec.
pub const ID_BYTES: usize = 128;
/// Descriptors beside one message.
pub const DESCRIPTORS: usize = 4;
/// Bytes of an exit record that are looked at (ours).
pub const RECORD_BYTES: usize = 8192;
