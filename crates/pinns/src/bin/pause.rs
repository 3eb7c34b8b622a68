//! The first process of a process namespace that a pod's containers share: it holds the namespace,
//! reaps what loses its parent, and ends when it is told to.
//!
//! Static, single-threaded, without any privilege; runs from an empty read-only root.

use std::process::ExitCode;

use rustix::process::{WaitOptions, wait};

fn main() -> ExitCode {
    match hold() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// As the init of its namespace it gets only the signals that it asks for: SIGCHLD to reap by, and
/// SIGTERM to end by.
fn hold() -> std::io::Result<()> {
    let children = sys::signal::descriptor(libc::SIGCHLD)?;
    let terminate = sys::signal::descriptor(libc::SIGTERM)?;
    loop {
        let mut ready = [
            rustix::event::PollFd::new(&children, rustix::event::PollFlags::IN),
            rustix::event::PollFd::new(&terminate, rustix::event::PollFlags::IN),
        ];
        rustix::event::poll(&mut ready, None)?;
        let [_, ended] = &ready;
        if !ended.revents().is_empty() {
            return Ok(());
        }
        sys::signal::clear(std::os::fd::AsFd::as_fd(&children));
        // None left, or none that has ended: both are the end of this round.
        while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
    }
}
