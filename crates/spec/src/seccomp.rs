//! Seccomp filters: the built-in default profile, and profiles in the format of containers'
//! profile files, resolved for one container's capabilities.

mod default;
mod notify;
mod profile;

pub use notify::{notify, syscall_name};
pub use profile::Profile;

use crate::capabilities::Set;
use crate::oci;

/// What applies where a profile depends on its surroundings.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings {
    /// The container's bounding set.
    pub bounding: Set,
    /// Kernel version, major and minor.
    pub kernel: (u32, u32),
}

/// The filter that `RuntimeDefault` stands for where no file is configured.
#[must_use]
pub fn default_filter(surroundings: Surroundings) -> oci::Seccomp {
    default::filter(surroundings)
}

/// Architectures that a process on this machine can make calls for, as libseccomp names them.
fn native_architectures() -> &'static [&'static str] {
    match std::env::consts::ARCH {
        "x86_64" => &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "aarch64" => &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
        "s390x" => &["SCMP_ARCH_S390X", "SCMP_ARCH_S390"],
        "powerpc64" => &["SCMP_ARCH_PPC64LE"],
        "riscv64" => &["SCMP_ARCH_RISCV64"],
        _ => &["SCMP_ARCH_NATIVE"],
    }
}
