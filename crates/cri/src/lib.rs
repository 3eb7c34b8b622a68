//! The Container Runtime Interface, version 1: the schema, and the services that answer it.
//!
//! A request is checked into a domain value, the room that knows is called, and its answer or
//! error is put on the wire. [`errors`] is the one place where a domain error becomes a gRPC code
//! and a text that the kubelet knows. Nothing here knows storage, runtimes or the kernel.

mod checked;
mod containers;
pub mod errors;
mod events;
mod image_service;
mod metrics;
mod pieces;
mod runtime_service;
mod sandboxes;
mod stats;
mod streaming;
pub mod v1;

pub use image_service::ImageService;
pub use runtime_service::{Identity, RuntimeService};
pub use streaming::StreamingBackend;
