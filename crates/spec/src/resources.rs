//! Limits of a container: from the request's numbers, in which zero is "not set", to the spec's.

use serde::{Deserialize, Serialize};

use std::collections::BTreeMap;

use crate::{Error, oci};

/// What a request limits. Zero and empty mean "not set".
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Microseconds.
    pub cpu_period: i64,
    /// Microseconds per period; −1 is no limit.
    pub cpu_quota: i64,
    /// Weight.
    pub cpu_shares: i64,
    /// List of processors.
    pub cpuset_cpus: String,
    /// List of memory nodes.
    pub cpuset_mems: String,
    /// Bytes; −1 is no limit.
    pub memory_limit: i64,
    /// Bytes of memory and swap together; −1 is no limit.
    pub memory_swap_limit: i64,
    /// Score for the OOM killer.
    pub oom_score_adj: i64,
    /// Page size and bytes.
    pub hugepage_limits: Vec<(String, u64)>,
    /// Files of cgroup v2.
    pub unified: BTreeMap<String, String>,
}

/// What the node's cgroups can do.
#[derive(Debug, Clone, Copy, Default)]
pub struct Controllers {
    /// All of them are on cgroup v2.
    pub unified: bool,
    /// Huge pages are limited where the runtime looks for it.
    pub hugetlb: bool,
    /// Swap is accounted.
    pub swap: bool,
    /// Processes are counted.
    pub pids: bool,
}

/// Works out the limits for the spec. Controllers that the node lacks are left out.
///
/// # Errors
/// [`Error::MemoryTooLow`], [`Error::SwapBelowMemory`], [`Error::Invalid`].
pub fn resolve(
    request: &Request,
    controllers: Controllers,
    minimum_memory: i64,
    pids_limit: i64,
) -> Result<oci::Resources, Error> {
    let memory = request.memory_limit;
    if memory > 0 && memory < minimum_memory {
        return Err(Error::MemoryTooLow {
            limit: memory,
            minimum: minimum_memory,
        });
    }
    let swap = request.memory_swap_limit;
    if swap > 0 && swap < memory {
        return Err(Error::SwapBelowMemory { swap, memory });
    }
    let unsigned = |value: i64, what| match u64::try_from(value) {
        Ok(value) => Ok((value > 0).then_some(value)),
        Err(_) => Err(Error::Invalid {
            what,
            reason: format!("{value} is negative"),
        }),
    };
    let cpu = oci::Cpu {
        shares: unsigned(request.cpu_shares, "cpu_shares")?,
        quota: (request.cpu_quota != 0).then_some(request.cpu_quota),
        period: unsigned(request.cpu_period, "cpu_period")?,
        cpus: list(&request.cpuset_cpus, "cpuset_cpus")?,
        mems: list(&request.cpuset_mems, "cpuset_mems")?,
    };
    // Without a limit of its own, swap is bounded by the memory limit: no swap for the container.
    let swap = if swap != 0 { swap } else { memory };
    let limits = oci::Memory {
        limit: (memory != 0).then_some(memory),
        swap: (swap != 0 && controllers.swap).then_some(swap),
    };
    Ok(oci::Resources {
        devices: Vec::new(),
        memory: (limits != oci::Memory::default()).then_some(limits),
        cpu: (cpu != oci::Cpu::default()).then_some(cpu),
        pids: (pids_limit > 0 && controllers.pids).then_some(oci::Pids { limit: pids_limit }),
        hugepage_limits: if controllers.hugetlb {
            hugepages(&request.hugepage_limits)
        } else {
            Vec::new()
        },
        unified: if controllers.unified {
            request.unified.clone()
        } else {
            BTreeMap::new()
        },
    })
}

/// Limits after an update, in which zero and empty leave what is.
///
/// A memory limit that comes without one for swap keeps swap's where that is still high enough;
/// else swap follows memory.
#[must_use]
pub fn merge(old: &Request, update: &Request) -> Request {
    let number = |old: i64, new: i64| if new != 0 { new } else { old };
    let text = |old: &String, new: &String| if new.is_empty() { old } else { new }.clone();
    let memory_limit = number(old.memory_limit, update.memory_limit);
    let kept = if (1..memory_limit).contains(&old.memory_swap_limit) {
        memory_limit
    } else {
        old.memory_swap_limit
    };
    let mut hugepages: BTreeMap<_, _> = old.hugepage_limits.iter().cloned().collect();
    hugepages.extend(update.hugepage_limits.iter().cloned());
    let mut unified = old.unified.clone();
    unified.extend(update.unified.clone());
    Request {
        cpu_period: number(old.cpu_period, update.cpu_period),
        cpu_quota: number(old.cpu_quota, update.cpu_quota),
        cpu_shares: number(old.cpu_shares, update.cpu_shares),
        cpuset_cpus: text(&old.cpuset_cpus, &update.cpuset_cpus),
        cpuset_mems: text(&old.cpuset_mems, &update.cpuset_mems),
        memory_limit,
        memory_swap_limit: number(kept, update.memory_swap_limit),
        oom_score_adj: number(old.oom_score_adj, update.oom_score_adj),
        hugepage_limits: hugepages.into_iter().collect(),
        unified,
    }
}

fn hugepages(limits: &[(String, u64)]) -> Vec<oci::HugepageLimit> {
    let limit = |(page_size, limit): &(String, u64)| oci::HugepageLimit {
        page_size: page_size.clone(),
        limit: *limit,
    };
    limits.iter().map(limit).collect()
}

/// The smallest number of a list of processors that is in order, as [`resolve`] checks it.
#[must_use]
pub fn first_cpu(list: &str) -> Option<u32> {
    let starts = list.split(',').filter_map(|part| {
        let (start, _) = part.split_once('-').unwrap_or((part, part));
        start.trim().parse().ok()
    });
    starts.min()
}

/// A list of numbers and ranges such as `0-3,7` (cpuset(7), "List format").
fn list(text: &str, what: &'static str) -> Result<String, Error> {
    let number = |part: &str| {
        !part.is_empty() && part.len() <= 5 && part.bytes().all(|byte| byte.is_ascii_digit())
    };
    let range = |item: &str| {
        item.split_once('-')
            .map_or_else(|| number(item), |(a, b)| number(a) && number(b))
    };
    if text.is_empty() || text.split(',').all(range) {
        Ok(text.to_owned())
    } else {
        Err(Error::Invalid {
            what,
            reason: format!("{text:?} is no list of numbers and ranges"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Controllers = Controllers {
        unified: false,
        hugetlb: true,
        swap: true,
        pids: true,
    };

    #[test]
    fn zero_is_not_set() {
        assert_eq!(
            resolve(&Request::default(), ALL, 0, 0),
            Ok(oci::Resources::default())
        );
    }

    #[test]
    fn memory_limits_are_checked() {
        let limited = |memory_limit, memory_swap_limit| Request {
            memory_limit,
            memory_swap_limit,
            ..Request::default()
        };
        let memory = |request: &Request, controllers| {
            resolve(request, controllers, 1000, 0).map(|r| r.memory.unwrap())
        };
        let both = |limit, swap| {
            Ok(oci::Memory {
                limit: Some(limit),
                swap,
            })
        };
        assert_eq!(memory(&limited(2000, 0), ALL), both(2000, Some(2000)));
        assert_eq!(memory(&limited(2000, -1), ALL), both(2000, Some(-1)));
        assert_eq!(
            memory(&limited(2000, 3000), Controllers::default()),
            both(2000, None)
        );
        assert_eq!(
            memory(&limited(999, 0), ALL),
            Err(Error::MemoryTooLow {
                limit: 999,
                minimum: 1000
            })
        );
        assert_eq!(
            memory(&limited(2000, 1500), ALL),
            Err(Error::SwapBelowMemory {
                swap: 1500,
                memory: 2000
            })
        );
    }

    #[test]
    fn an_update_changes_what_it_names() {
        let old = Request {
            cpu_shares: 512,
            cpuset_cpus: "0".into(),
            memory_limit: 2000,
            memory_swap_limit: 3000,
            hugepage_limits: vec![("1GB".into(), 0), ("2MB".into(), 1)],
            ..Request::default()
        };
        assert_eq!(merge(&old, &Request::default()), old);
        let update = Request {
            cpu_quota: -1,
            memory_limit: 2500,
            hugepage_limits: vec![("2MB".into(), 7)],
            ..Request::default()
        };
        let merged = merge(&old, &update);
        assert_eq!((merged.cpu_shares, merged.cpu_quota), (512, -1));
        assert_eq!(
            (merged.memory_limit, merged.memory_swap_limit),
            (2500, 3000)
        );
        assert_eq!(
            merged.hugepage_limits,
            [("1GB".into(), 0), ("2MB".into(), 7)]
        );
        let more = Request {
            memory_limit: 4000,
            ..Request::default()
        };
        assert_eq!(merge(&old, &more).memory_swap_limit, 4000);
    }

    #[test]
    fn a_missing_controller_is_left_out() {
        let request = Request {
            hugepage_limits: vec![("2MB".into(), 0)],
            ..Request::default()
        };
        assert!(
            resolve(&request, Controllers::default(), 0, 100).unwrap() == oci::Resources::default()
        );
        assert_eq!(
            resolve(&request, ALL, 0, 100)
                .unwrap()
                .hugepage_limits
                .len(),
            1
        );
    }

    #[test]
    fn the_first_processor_is_the_smallest() {
        for (list, wanted) in [
            ("0-3,7", Some(0)),
            ("7,2-3", Some(2)),
            ("5", Some(5)),
            ("", None),
        ] {
            assert_eq!(first_cpu(list), wanted, "{list:?}");
        }
    }

    #[test]
    fn processor_lists_are_lists() {
        for (cpus, good) in [
            ("", true),
            ("0-3,7", true),
            ("0,", false),
            ("a", false),
            ("0-", false),
            ("1\n2", false),
        ] {
            assert_eq!(list(cpus, "cpuset_cpus").is_ok(), good, "{cpus:?}");
        }
    }
}
