//! Traffic of pods' network interfaces.
//!
//! A pod's counters can only be read from inside its network namespace, and a pod may have no
//! process there whose `/proc/PID/net` could be read instead. So a thread of its own enters one
//! pinned namespace after another, reads, and ends: no thread that does other work is ever in a
//! foreign namespace, and a hundred pods cost one thread for a few milliseconds.

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::SystemTime;

use sys::namespace::{self, Kind};

use crate::figures::{At, Interface};
use crate::{file, text};

/// The interface that CNI plugins are asked for: the pod's default one.
pub const DEFAULT: &str = "eth0";
/// The thread only opens and reads.
const STACK: usize = 128 * 1024;

/// Interfaces of a pod; none where they could not be read.
pub type Interfaces = Option<At<Vec<Interface>>>;

/// Reads the interfaces of pinned network namespaces, in their order. Blocks.
#[must_use]
pub fn interfaces(pins: Vec<PathBuf>) -> Vec<Interfaces> {
    let count = pins.len();
    if count == 0 {
        return Vec::new();
    }
    let visit = move || pins.iter().map(|pin| inside(pin)).collect();
    let thread = thread::Builder::new()
        .name("pod-networks".to_owned())
        .stack_size(STACK)
        .spawn(visit);
    let read: Option<Vec<_>> = thread.ok().and_then(|thread| thread.join().ok());
    read.unwrap_or_else(|| vec![None; count])
}

fn inside(pin: &Path) -> Interfaces {
    let namespace = namespace::open(pin).ok()?;
    namespace::enter(namespace.as_fd(), Kind::Net).ok()?;
    // Not `/proc/self`: that is the process's first thread, which never leaves the host's.
    let text = file::read(Path::new("/proc/thread-self/net/dev")).ok()?;
    Some(At {
        at: SystemTime::now(),
        value: text::interfaces(&text),
    })
}
