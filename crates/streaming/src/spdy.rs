//! SPDY/3.1, as far as `kubectl`, `crictl` and the kubelet speak it.
//!
//! After an HTTP upgrade a connection carries frames: control frames (SYN_STREAM opens a stream and
//! has its headers; RST_STREAM, PING, GOAWAY, SETTINGS, WINDOW_UPDATE) and data frames. Only the
//! client opens streams, with odd and growing numbers. A frame with the flag FIN ends its direction
//! of the stream. Headers are deflated in one context for the whole connection, with a dictionary
//! that both sides know.
//!
//! The one implementation that clients have (Go's spdystream) never sends WINDOW_UPDATE and reads
//! past those that it gets. So we announce what we have taken, as a correct peer expects, and obey
//! windows where a client shows that it has any (`flow`): else one that reads slowly is felt through
//! TCP.

pub(crate) mod connection;
mod dictionary;
pub(crate) mod flow;
pub mod frame;
pub mod headers;
