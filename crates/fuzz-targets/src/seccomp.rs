//! Seccomp profiles, and filters that leave what they forbid to a listener.

use spec::capabilities::Set;
use spec::seccomp::{Profile, Surroundings, notify};

/// Profiles: a filter for one container is a profile too, that gives the same filter everywhere.
pub(crate) fn profile(bytes: &[u8]) {
    let Ok(profile) = Profile::parse(bytes) else {
        return;
    };
    for bounding in [Set::default(), Set::all()] {
        for kernel in [(4, 8), (6, 1)] {
            let surroundings = Surroundings { bounding, kernel };
            let filter = profile.filter(surroundings);
            assert!(filter.syscalls.iter().all(|rule| !rule.names.is_empty()));
            let written = serde_json::to_vec(&filter).expect("a filter has a form");
            let again = Profile::parse(&written).expect("our own filter");
            let elsewhere = Surroundings {
                bounding: Set::default(),
                kernel: (0, 0),
            };
            assert_eq!(again.filter(elsewhere), filter);
            let mut left = filter;
            let has_listener = notify(&mut left, "/run/s");
            assert_eq!(has_listener, !left.listener_path.is_empty());
            assert!(!notify(&mut left, "/run/s"), "nothing more is forbidden");
        }
    }
}
