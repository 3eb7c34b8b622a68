//! The monitor against real runtimes and the real kernel. Needs root, cgroups, runc (or what
//! `CRIOXIDE_TEST_RUNTIME` names) and Debian's busybox.
//!
//! `CRIOXIDE_TEST_MONITOR` names another binary than the one just built;
//! `CRIOXIDE_TEST_KILLS=200` makes the test of `kill -9` a long one.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test fails by panicking, and says what it skips"
)]

#[path = "monitor/exec.rs"]
mod exec;
#[path = "monitor/harness.rs"]
mod harness;
#[path = "monitor/lifecycle.rs"]
mod lifecycle;
#[path = "monitor/logs.rs"]
mod logs;
#[path = "monitor/loss.rs"]
mod loss;
#[path = "monitor/notifier.rs"]
mod notifier;
#[path = "monitor/stdio.rs"]
mod stdio;
