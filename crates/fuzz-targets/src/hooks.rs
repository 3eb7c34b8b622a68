//! OCI hook files.

use std::collections::BTreeMap;

use spec::hooks::{HookFile, Subject};
use spec::oci;

/// Hook files: a container that one is not for is left alone; one that it is for gets that program and
/// no other, in stages that runtimes know.
pub(crate) fn file(bytes: &[u8]) {
    let Ok(file) = HookFile::parse(bytes) else {
        return;
    };
    assert!(file.program().starts_with('/'));
    let annotations = BTreeMap::from([("com.example/a".to_owned(), "fluid".to_owned())]);
    for (command, has_bind_mounts) in [("/init", false), ("/bin/sh", true)] {
        let subject = Subject {
            annotations: &annotations,
            command,
            has_bind_mounts,
        };
        let mut spec = oci::Spec::default();
        if !file.apply(subject, &mut spec) {
            assert_eq!(spec, oci::Spec::default());
            continue;
        }
        let hooks = spec.hooks.expect("it says that it added one");
        assert!(hooks.prestart.is_empty());
        let all: Vec<_> = [
            hooks.create_runtime,
            hooks.create_container,
            hooks.start_container,
            hooks.poststart,
            hooks.poststop,
        ]
        .concat();
        assert!(!all.is_empty());
        assert!(all.iter().all(|hook| hook.path == file.program()));
    }
}
