//! A pod's monitor: subreaper of its containers, reader of their output, writer of their logs and
//! exit records, and the one that calls the OCI runtime. One per pod; it outlives the daemon.
//!
//! Owns its directory (`--dir`): `monitor.sock`, `monitor.lock`, and for each container
//! `containers/ID/` with the FIFOs `stdin`, `stdout`, `stderr` and the journals
//! `stdout.journal`, `stderr.journal`, and `cgroup` (the init's `/proc/PID/cgroup`). Knows nothing above the protocol.
//!
//! Two threads: [`server`] (requests, children) and [`log`](mod@log) (output, disk). std and
//! system calls only: no async, nothing that looks a name up, so that it can be static.

mod connection;
mod container;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod limits;
mod log;
mod notify;
mod options;
mod record;
mod runtime;
mod server;
mod start;
mod stdio;

use std::io::Write;
use std::process::ExitCode;

use options::Asked;

/// The program.
#[must_use]
pub fn main() -> ExitCode {
    sys::memory::stay_small();
    let outcome = match options::parse(std::env::args_os().skip(1)) {
        Ok(Asked::Run(options)) => start::run(options).map_err(|err| err.to_string()),
        Ok(Asked::Help) => say(options::USAGE),
        Ok(Asked::Version) => say(&format!("crioxide-monitor {}\n", env!("CARGO_PKG_VERSION"))),
        Err(text) => Err(text),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            // Nowhere else to say it.
            let _unheard = writeln!(std::io::stderr(), "crioxide-monitor: {text}");
            ExitCode::FAILURE
        }
    }
}

fn say(text: &str) -> Result<(), String> {
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(|err| err.to_string())
}
