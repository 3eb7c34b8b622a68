//! WebSocket, as Kubernetes uses it: several channels over one connection's messages.

pub(crate) mod connection;
pub mod message;
pub(crate) mod tunnel;

pub(crate) use message::{FORWARD, Message, Protocol, REMOTE, choose};
