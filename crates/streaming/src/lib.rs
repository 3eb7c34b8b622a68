//! The streaming server: exec, attach and port forwarding for clients that were promised it.
//!
//! A session is promised by a URL with a token ([`Promises`]), claimed by the client's one HTTP
//! request, and carried by SPDY/3.1 or WebSocket. What is streamed to comes from a [`Backend`]: this
//! crate knows nothing of pods. It owns nothing on disk.
//!
//! Invariants: what a client sends is bounded before it is held ([`limits`]); whoever is slow holds
//! back its own session only; when a client goes, its task ends and all it held is closed.

mod backend;
mod channel;
mod conversation;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod limits;
mod server;
mod session;
pub mod spdy;
mod tls;
mod tokens;
mod upgrade;
pub mod websocket;

pub use backend::{
    Attach, Backend, End, Exec, Forward, Input, Output, Process, Refusal, Resize, Size, Wanted,
};
pub use server::{Error, Options, Promises, Server, Session};
pub use tls::{
    Error as TlsError, Options as TlsOptions, Tls, Version as TlsVersion,
    make_if_missing as make_certificate_if_missing,
};
pub use tokens::TooMany;
