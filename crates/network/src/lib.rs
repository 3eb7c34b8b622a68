//! Pod networks by CNI: which network there is, attaching a pod to it, detaching it, and
//! freeing what a crash or a power cut left behind.
//!
//! Also the ports of the node that lead to pods ([`HostPorts`]).
//!
//! Owns `<cache_dir>/results/` (libcni's result cache, in libcni's format, so that a node can be
//! switched from and to other CRI runtimes), and what `host_ports` says. Reads the configuration directory; runs the plugins.
//! Knows nothing of images, containers or gRPC. Everything blocks: the daemon calls it from a
//! pool and hands a time-out in.
//!
//! Invariant: a cache entry exists from before the first plugin of an ADD runs until a DEL has
//! succeeded. So whatever a plugin may hold for a pod can always be found and freed.

mod bandwidth;
mod cache;
mod config;
mod error;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod host_ports;
pub mod limits;
mod network;
mod plugin;
mod pod;
mod result;
mod version;

pub use bandwidth::{BadBandwidth, Bandwidth};
pub use error::{Error, NotReady, Result};
pub use host_ports::{Backend, Forwarded, HostPorts};
pub use network::{Attachment, Collected, Network, Options};
pub use pod::{Pod, PortMapping, Protocol};
