//! Filters that leave what they forbid to a listener.

use crate::oci::{Seccomp, Syscall};

const NOTIFY: &str = "SCMP_ACT_NOTIFY";
/// Answers that end a call (runtime-spec, config-linux.md "Seccomp"), and that CRI-O's notifier sees.
const FORBIDDING: [&str; 4] = [
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
];
/// `ENOSYS`: a call that fails as one that the kernel does not have is not missed by anybody. C libraries make
/// such (`clone3`, of which a filter can't see what it asks for) to fall back to others each time that a thread
/// begins; CRI-O takes that for forbidden.
const ABSENT: u32 = 38;
/// runc tells of the listener by it, after the filter is loaded, and refuses a profile that leaves it to
/// the listener.
const NEVER: &str = "write";

/// Has a filter leave the calls that its rules forbid to the listener that is handed over at `socket`. The
/// calls that it forbids because no rule names them are not seen: runtimes refuse that. Whether there was
/// any rule to change.
#[must_use]
pub fn notify(filter: &mut Seccomp, socket: &str) -> bool {
    let mut kept = Vec::new();
    let mut changed = false;
    for rule in &mut filter.syscalls {
        let forbids = FORBIDDING.contains(&rule.action.as_str());
        if !forbids || rule.errno_ret == Some(ABSENT) {
            continue;
        }
        if rule.names.iter().any(|name| name == NEVER) {
            kept.push(Syscall {
                names: vec![NEVER.to_owned()],
                ..rule.clone()
            });
            rule.names.retain(|name| name != NEVER);
        }
        if !rule.names.is_empty() {
            NOTIFY.clone_into(&mut rule.action);
            rule.errno_ret = None;
            changed = true;
        }
    }
    filter.syscalls.retain(|rule| !rule.names.is_empty());
    filter.syscalls.extend(kept);
    if changed {
        socket.clone_into(&mut filter.listener_path);
    }
    changed
}

/// A system call's name, by its number in the table of `arch`, an `AUDIT_ARCH_*` of `linux/audit.h`; the
/// number where there is none.
#[must_use]
pub fn syscall_name(arch: u32, number: i32) -> String {
    let known = usize::try_from(number)
        .ok()
        .and_then(|number| name(arch, number));
    // What is a word of Rust is written as one that is meant literally.
    known.map_or_else(
        || number.to_string(),
        |name| name.trim_start_matches("r#").to_owned(),
    )
}

#[cfg(target_arch = "x86_64")]
fn name(arch: u32, number: usize) -> Option<&'static str> {
    const X86_64: u32 = 0xc000_003e;
    const I386: u32 = 0x4000_0003;
    /// `__X32_SYSCALL_BIT`: x32's calls are the others', most of them by the same number.
    const X32: usize = 0x4000_0000;
    match arch {
        X86_64 => Some(syscalls::x86_64::Sysno::new(number & !X32)?.name()),
        I386 => Some(syscalls::x86::Sysno::new(number)?.name()),
        _ => None,
    }
}

#[cfg(target_arch = "aarch64")]
fn name(arch: u32, number: usize) -> Option<&'static str> {
    const AARCH64: u32 = 0xc000_00b7;
    const ARM: u32 = 0x4000_0028;
    match arch {
        AARCH64 => Some(syscalls::aarch64::Sysno::new(number)?.name()),
        ARM => Some(syscalls::arm::Sysno::new(number)?.name()),
        _ => None,
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn name(_arch: u32, _number: usize) -> Option<&'static str> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(names: &[&str], action: &str) -> Syscall {
        Syscall {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            action: action.to_owned(),
            errno_ret: Some(1),
            args: Vec::new(),
        }
    }

    #[test]
    fn what_rules_forbid_is_left_to_the_listener() {
        let mut filter = Seccomp {
            default_action: "SCMP_ACT_ERRNO".to_owned(),
            syscalls: vec![
                rule(&["read"], "SCMP_ACT_ALLOW"),
                rule(&["mount"], "SCMP_ACT_ERRNO"),
                rule(&["reboot"], "SCMP_ACT_KILL_PROCESS"),
                rule(&["swapon"], "SCMP_ACT_KILL"),
                rule(&["swapoff"], "SCMP_ACT_KILL_THREAD"),
                rule(&["ptrace"], "SCMP_ACT_TRAP"),
                rule(&["acct"], "SCMP_ACT_LOG"),
            ],
            ..Seccomp::default()
        };
        assert!(notify(&mut filter, "/run/s"));
        assert_eq!(filter.listener_path, "/run/s");
        assert_eq!(filter.default_action, "SCMP_ACT_ERRNO");
        for rule in &filter.syscalls {
            let left = ["mount", "reboot", "swapon", "swapoff"];
            let is_left = left.contains(&rule.names[0].as_str());
            assert_eq!(rule.action == NOTIFY, is_left, "{rule:?}");
            assert_eq!(rule.errno_ret.is_none(), is_left, "{rule:?}");
        }
    }

    #[test]
    fn a_filter_that_forbids_nothing_by_name_gets_no_listener() {
        for rules in [
            vec![],
            vec![rule(&["read"], "SCMP_ACT_ALLOW")],
            vec![rule(&["write"], "SCMP_ACT_ERRNO")],
            vec![Syscall {
                errno_ret: Some(ABSENT),
                ..rule(&["clone3"], "SCMP_ACT_ERRNO")
            }],
        ] {
            let mut filter = Seccomp {
                syscalls: rules.clone(),
                ..Seccomp::default()
            };
            assert!(!notify(&mut filter, "/run/s"));
            assert_eq!(
                (filter.syscalls, filter.listener_path.as_str()),
                (rules, "")
            );
        }
    }

    #[test]
    fn write_keeps_its_answer() {
        let mut filter = Seccomp {
            syscalls: vec![rule(&["mount", "write"], "SCMP_ACT_ERRNO")],
            ..Seccomp::default()
        };
        assert!(notify(&mut filter, "/run/s"));
        let by_name = |name: &str| {
            let mut rules = filter.syscalls.iter();
            rules.find(|rule| rule.names == [name]).unwrap()
        };
        assert_eq!(by_name("mount").action, NOTIFY);
        assert_eq!(*by_name("write"), rule(&["write"], "SCMP_ACT_ERRNO"));
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn calls_have_the_names_of_their_tables() {
        for (arch, number, name) in [
            (0xc000_003e, 161, "chroot"),
            (0xc000_003e, 0x4000_00a1, "chroot"),
            (0x4000_0003, 61, "chroot"),
            (0x4000_0003, 17, "break"),
            (0xc000_003e, 461, "lsm_list_modules"),
            (0xc000_003e, 100_000, "100000"),
            (0xc000_003e, -1, "-1"),
            (7, 161, "161"),
        ] {
            assert_eq!(syscall_name(arch, number), name, "{arch:#x} {number}");
        }
    }
}
