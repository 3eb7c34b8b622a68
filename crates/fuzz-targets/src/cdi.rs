//! CDI spec files.

use spec::cdi::{Format, HostDevice, SpecFile, is_qualified};
use spec::oci;

/// Files of both forms: what is taken has devices with names of the field, and edits that, made a
/// second time, change nothing but what is a list of requests: rules and hooks.
pub(crate) fn file(bytes: &[u8]) {
    for format in [Format::Json, Format::Yaml] {
        let Ok(file) = SpecFile::parse(bytes, format) else {
            continue;
        };
        let names: Vec<_> = file.devices().collect();
        assert!(!names.is_empty());
        for name in &names {
            assert!(is_qualified(name), "{name:?}");
            let device = file.device(name).expect("a device has edits");
            let mut once = oci::Spec {
                process: Some(oci::Process::default()),
                ..oci::Spec::default()
            };
            let apply = |spec: &mut oci::Spec| {
                let host = HostDevice {
                    kind: "c",
                    major: 1,
                    minor: 3,
                    mode: 0o600,
                };
                device.apply(spec, |_| Ok(host))
            };
            if apply(&mut once).is_err() {
                continue;
            }
            let mut twice = once.clone();
            apply(&mut twice).expect("as before");
            assert_eq!(once.process, twice.process);
            let destinations = |spec: &oci::Spec| -> Vec<_> {
                let mounts = spec.mounts.iter();
                let mut all: Vec<_> = mounts.map(|mount| mount.destination.clone()).collect();
                all.sort();
                all
            };
            assert_eq!(destinations(&once), destinations(&twice));
            let linux = once.linux.as_ref().expect("made by the edits");
            assert_eq!(linux.devices, twice.linux.expect("as before").devices);
            let rules = linux.resources.iter().flat_map(|all| &all.devices);
            assert!(rules.clone().all(|rule| rule.allow && rule.kind != "p"));
        }
    }
}
