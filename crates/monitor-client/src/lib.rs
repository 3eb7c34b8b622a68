//! The daemon's end of a pod's monitor: starts it, connects to it, asks it, hears its events.
//!
//! Owns no state on disk: the pod's run directory is the monitor's. Knows nothing of pods; what a
//! lost monitor means, and its successor, is the caller's to decide:
//!
//! 1. [`Event::Lost`] arrives (or [`Monitor::connect`] fails after a restart of the daemon).
//! 2. [`Monitor::spawn`] in the same directory. It waits for the predecessor's lock.
//! 3. [`Monitor::adopt`] for every container, with the descriptors that [`Created`] gave.
//!    Until then the output that nobody read is held by [`HeldOutput`].
//! 4. [`Monitor::orphan_reaped`] for what `sys::reap::orphans` reaps from then on, and for what
//!    it had reaped since the loss.

mod connection;
mod error;
mod monitor;
mod spawn;

pub use connection::{Event, Events};
pub use error::{Error, Result};
pub use monitor::{AdoptedDescriptors, AttachTo, Created, ExecStarted, HeldOutput, Monitor};
pub use monitor_protocol::{Adopt, ContainerInfo, Create, ErrorKind, Exec, Exit, Id, State};
pub use spawn::SpawnOptions;
