//! The store against the real kernel, GNU tar, and podman and skopeo of a Debian 13 tree.
//!
//! Run as root. What can't run says why on its standard error and passes.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

mod additional;
mod archive;
mod check;
mod containers;
mod extended;
mod faults;
mod floods;
mod harness;
mod hostile;
mod images;
mod layer_stores;
mod owners;
mod peers;
mod peers_roots;
mod program;
mod quota;
mod recovery;
mod round_trip;
mod vfs;
