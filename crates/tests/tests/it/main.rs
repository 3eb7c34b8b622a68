//! Tests of the whole: real daemon, registry, CNI plugins, OCI runtime and kernel, in private
//! places. After each the leak audit runs.
#![allow(
    clippy::unwrap_used,
    clippy::large_futures,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and its futures and files are few"
)]

mod apparmor;
mod artifacts;
mod bad_input;
mod cdi;
mod checkpoint;
mod chunked;
mod containers;
mod costs;
mod default_mounts;
mod encrypted;
mod events;
mod exhausted;
mod faults;
mod fixture;
mod full_disk;
mod given;
mod handlers;
mod host_ports;
mod image_matrix;
mod image_volumes;
mod images;
mod journald;
mod linked_logs;
mod metrics;
mod mounts;
mod oci_hooks;
mod own_files;
mod peers;
mod pods;
mod predecessor;
mod proxies;
mod pull_workers;
mod pulls;
mod quotas;
mod reload;
mod restart;
mod retries;
mod seccomp_notifier;
mod selinux;
mod service;
mod shared_store;
mod signatures;
mod stats;
mod stores;
mod streaming;
mod update;
mod upkeep;
mod user_namespaces;
