//! systemd as the keeper of cgroups, over D-Bus: scopes are started, units are stopped and
//! forgotten, and the name of a slice tells where its cgroup is.
//!
//! Owns no state: what there is, systemd knows. Knows nothing of pods or runtimes. The connection
//! is made when it is needed and again when it breaks, as it does when the message bus or systemd
//! itself starts anew.

mod connection;
mod slice;

pub use connection::{Error, Result, Scope, Systemd};
pub use slice::{BadSlice, Slice};
