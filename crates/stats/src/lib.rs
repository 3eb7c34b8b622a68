//! What pods and containers use: cgroups of both versions, network interfaces, writable layers,
//! processes; and the metrics that the CRI knows by name.
//!
//! Decoders of the kernel's texts are pure ([`text`]); thin readers open the files. Nothing is
//! spawned, and no descriptor is kept: opening a cgroup's files by path costs two microseconds
//! each, while five directories held per container would be thousands of descriptors on a full
//! node. Knows nothing of gRPC, pods or storage.

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
