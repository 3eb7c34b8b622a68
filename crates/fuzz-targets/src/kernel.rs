//! The kernel's texts. A container can name interfaces and cgroups in them.

use stats::{limits, text};

/// Files of cgroups and of /proc: what is told is bounded, told once, and as a slow reader finds it.
pub(crate) fn kernel_text(bytes: &[u8]) {
    let text = &*String::from_utf8_lossy(bytes);
    sys::cgroup::fuzzed(text);

    let [usage, other] = text::fields(text, ["usage_usec", "anon"]);
    for (name, value) in [("usage_usec ", usage), ("anon ", other)] {
        let last = text
            .lines()
            .filter_map(|line| line.strip_prefix(name))
            .next_back();
        assert_eq!(
            value,
            last.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
        );
    }
    let devices = text::io_v1(text, text);
    assert!(devices.len() <= limits::DEVICES);
    assert!(devices.is_sorted_by(|one, other| one.number < other.number));
    assert!(text::io_v2(text).len() <= limits::DEVICES.min(text.lines().count()));
    let interfaces = text::interfaces(text);
    assert!(interfaces.len() <= limits::INTERFACES);
    assert!(
        interfaces
            .iter()
            .all(|one| one.name != "lo" && text.contains(&one.name))
    );
    assert!(text::list(text).len() <= text.split_whitespace().count());
    assert!(text::limit(text).is_none_or(|limit| text::number(text) == Some(limit)));
    let is_pressure = text.lines().any(|line| line.contains(' '));
    assert_eq!(text::pressure(text).is_some(), is_pressure);
    if let Some(limit) = text::soft_open_files(text) {
        assert!(text.contains(&limit.to_string()) || text.contains('+') || text.contains('0'));
    }
}
