//! Bounds on what this crate reads.

/// Bytes of one CNI configuration file (ours; real ones are below 10 KiB).
pub const CONFIG_BYTES: usize = 1 << 20;

/// Files looked at in a configuration directory (ours).
pub const CONFIG_FILES: usize = 256;

/// Plugins of one network (ours).
pub const PLUGINS: usize = 64;

/// Bytes kept of a plugin's stdout, and of its stderr (ours).
pub const PLUGIN_OUTPUT_BYTES: usize = 1 << 20;

/// Bytes of a plugin's words that an error quotes (ours).
pub const QUOTED_BYTES: usize = 1024;

/// Bytes of one file of the result cache (ours; it holds a configuration in base64 and a result).
pub const CACHE_BYTES: usize = 4 << 20;

/// Length of an interface name (the kernel: IFNAMSIZ without the NUL).
pub const INTERFACE_NAME_BYTES: usize = 15;

/// Bytes of what iptables prints of its rules (ours; kube-proxy with thousands of services has a few
/// million).
pub const RULES_BYTES: usize = 64 << 20;
