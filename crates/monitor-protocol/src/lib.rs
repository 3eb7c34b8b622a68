//! The messages between the daemon and a pod's monitor.
//!
//! One message is one packet of a `SOCK_SEQPACKET` unix socket, below [`limits::MESSAGE_BYTES`];
//! descriptors travel beside it (`SCM_RIGHTS`), in the order that the message's documentation
//! gives. Each message starts with a request's number: a reply carries that of its request, an
//! event carries 0. Requests may be answered in any order, so that a slow `create` holds up
//! nothing.
//!
//! Versions: the first message on a connection is [`Request::Hello`] with the daemon's
//! [`VERSION`], answered by [`Reply::Hello`] with the monitor's. A monitor outlives updates of
//! the daemon, so the daemon must speak every version still in use: a change adds a tag or a
//! version, it never changes what a tag means.
//!
//! Pure: no I/O, no clock, knows neither end.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod codec;
mod id;
pub mod limits;
mod message;
mod record;

pub use codec::DecodeError;
pub use id::{BadId, Id};
pub use message::{
    Adopt, ContainerInfo, Create, ErrorKind, Event, Exec, Exit, FromMonitor, Reply, Request, State,
    ToMonitor,
};

/// The version of the messages that this crate writes. 2 added [`Request::Restore`],
/// 3 [`Request::Journal`], 4 [`Request::Notify`], [`Request::Listen`] and their events.
pub const VERSION: u32 = 4;
