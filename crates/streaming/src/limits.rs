//! Bounds of what a client may send, and times. Where nobody is named, they are ours.

use std::time::Duration;

/// How long a token is good for: the kubelet's streaming library.
pub const TOKEN_LIFE: Duration = Duration::from_secs(60);
/// Tokens at a time: the kubelet's streaming library.
pub const TOKENS: usize = 1000;
/// Connections that have not shown a token yet.
pub const STRANGERS: usize = 256;
/// How long a stranger may take for its TLS handshake, and for its request.
pub const GREETING: Duration = Duration::from_secs(10);
/// When to accept again after that failed: descriptors come back when something ends.
pub const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// Bytes of a request's head.
pub const REQUEST_BYTES: usize = 16 * 1024;
/// How long a client may take to open the streams that it asked for: the kubelet's library.
pub const CREATION: Duration = Duration::from_secs(30);
/// How long a session may be silent where nothing is configured: the kubelet's library.
pub const IDLE: Duration = Duration::from_secs(4 * 60 * 60);
/// What may be configured at most: a year.
pub const LONGEST_IDLE: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// After this long without a word of ours the client is pinged: one that vanished without a word
/// is found by it.
pub const KEEPALIVE: Duration = Duration::from_secs(30);
/// How long a client may take to close a connection on which all is said.
pub const FAREWELL: Duration = Duration::from_secs(10);
/// How long output may pause after its process has ended: children that it left hold it open.
pub const DRAIN: Duration = Duration::from_secs(1);

/// Bytes of a SPDY control frame. The format allows 16 MiB; requests of ours take 100.
pub const CONTROL_BYTES: usize = 16 * 1024;
/// Bytes of an inflated SPDY header block.
pub const HEADER_BYTES: usize = 16 * 1024;
/// Headers of a SPDY stream.
pub const HEADERS: usize = 64;
/// Live streams of a SPDY connection: two per forwarded connection.
pub const STREAMS: usize = 1024;
/// Bytes that are handed on at once.
pub const PIECE_BYTES: usize = 32 * 1024;
/// What a piece costs at least, so that many small ones are bounded as well.
pub const PIECE_LEAST: usize = 256;
/// Bytes that came in and wait to be taken, of a process and of all forwarded connections.
pub const HELD_BYTES: usize = 256 * 1024;
/// The same of all connections that one client forwards.
pub const FORWARD_HELD_BYTES: usize = 4 * 1024 * 1024;
/// Pieces on their way out.
pub const PIECES_OUT: usize = 8;
/// Answers to a client's control frames on their way out: a flood of them waits.
pub const CONTROLS_OUT: usize = 16;
/// Bytes of a WebSocket message. Clients that pass through the API server send whole files in one.
pub const MESSAGE_BYTES: usize = 16 * 1024 * 1024;
/// Bytes of a terminal's size, as JSON.
pub const SIZE_BYTES: usize = 1024;
/// Ports forwarded over one WebSocket: two channels each, numbered in a byte.
pub const WEBSOCKET_PORTS: usize = 127;
