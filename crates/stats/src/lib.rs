//! What pods and containers use: cgroups of both versions, network interfaces, writable layers,
//! processes; and the metrics that the CRI knows by name.
//!
//! Decoders of the kernel's texts are pure ([`text`]); thin readers open the files. Nothing is
//! spawned, and no descriptor is kept: the six files of a poll cost about 50 µs a container opened
//! anew and 13 µs held open, but those would be six descriptors for each container and pod. Knows nothing of gRPC, pods or storage.

pub mod cgroup;
pub mod disk;
pub mod figures;
pub mod limits;
pub mod metrics;
pub mod network;
pub mod processes;
pub mod rate;
pub mod text;

mod file;
