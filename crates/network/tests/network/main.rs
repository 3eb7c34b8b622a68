//! The CNI client against real plugins in a private network namespace, and against plugins that
//! fail, hang and lie.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod failing;
mod host_ports;
mod real;
mod sctp;
mod support;
