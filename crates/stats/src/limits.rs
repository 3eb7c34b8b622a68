//! Bounds on what is read, all set by us.

/// Bytes of one file of a cgroup or of `/proc`: `cpuacct.usage_percpu` of 4096 processors fits.
pub const FILE_BYTES: usize = 128 * 1024;
/// Block devices told of one cgroup.
pub const DEVICES: usize = 256;
/// Network interfaces told of one pod: its processes may make any number.
pub const INTERFACES: usize = 64;
/// Depth of cgroups beneath a container's in which its processes are looked for: a container can
/// make its own.
pub const CGROUP_DEPTH: usize = 16;
/// Cgroups of one container in which they are looked for.
pub const CGROUPS: usize = 1024;
/// Descriptors of one container that are counted: its processes may open millions.
pub const DESCRIPTORS: u64 = 65_536;
/// Depth of directories in a writable layer beyond which nothing is counted: each level holds a
/// descriptor while it is read, and the content is the container's.
pub const LAYER_DEPTH: usize = 256;
/// Hard links of a writable layer that are remembered, so that a file counts once.
pub const HARD_LINKS: usize = 100_000;
