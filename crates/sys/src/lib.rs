//! The only home of `unsafe` code and raw system calls: everything that talks to the kernel
//! below what std offers.
//!
//! No async and no policy here: a wrapper takes borrowed descriptors, returns owned ones and
//! says which man page and kernel version it stands on. `grep 'allow(unsafe_code'` lists all of
//! the project's unsafe code.

pub mod apparmor;
pub mod beneath;
pub mod cgroup;
pub mod durable;
pub mod fault;
pub mod lock;
pub mod mapping;
pub mod memory;
pub mod mount;
pub mod namespace;
pub mod null;
pub mod pidfd;
pub mod pool;
pub mod pty;
pub mod quota;
pub mod random;
pub mod reap;
pub mod remove;
pub mod sealed;
pub mod seccomp;
pub mod selinux;
pub mod seqpacket;
pub mod signal;
pub mod spawn;
