use std::path::Path;

use super::*;
use crate::oci;

const WHOLE: &str = r#"{
  "cdiVersion": "0.7.0", "kind": "vendor.com/net.dev", "annotations": {"a": "b"},
  "containerEdits": {"env": ["ALL=1"]},
  "devices": [
    {"name": "0", "containerEdits": {
      "env": ["PATH=/vendor", "DEV=a=b"],
      "deviceNodes": [{"path": "/dev/one", "hostPath": "/dev/host", "permissions": "rw"},
                      {"path": "/dev/told", "type": "b", "major": 7, "minor": 1, "uid": 5, "fileMode": 432}],
      "mounts": [{"hostPath": "/lib/v", "containerPath": "/usr/lib/v", "options": ["ro", "bind"]},
                 {"hostPath": "tmpfs", "containerPath": "/run", "type": "tmpfs"}],
      "hooks": [{"hookName": "createRuntime", "path": "/bin/h", "args": ["h"], "env": ["A=1"], "timeout": 3}],
      "additionalGIDs": [0, 44, 44],
      "intelRdt": {"closID": "c", "l3CacheSchema": "L3:0=f"}}},
    {"name": "bare:1", "containerEdits": {"deviceNodes": [{"path": "/dev/host", "permissions": "none"}]}}
  ]}"#;

fn look(path: &Path) -> Result<HostDevice, String> {
    if path == Path::new("/dev/host") {
        Ok(HostDevice {
            kind: "c",
            major: 10,
            minor: 229,
            mode: 0o640,
        })
    } else {
        Err("no such file".to_owned())
    }
}

fn container() -> oci::Spec {
    oci::Spec {
        process: Some(oci::Process {
            env: vec!["PATH=/bin".into(), "HOME=/".into()],
            user: oci::User {
                uid: 1000,
                gid: 100,
                additional_gids: vec![100],
            },
            ..oci::Process::default()
        }),
        mounts: ["/", "/run", "/usr/lib/v/deep"]
            .map(|path| oci::Mount {
                destination: path.into(),
                source: "old".into(),
                ..oci::Mount::default()
            })
            .to_vec(),
        ..oci::Spec::default()
    }
}

#[test]
fn a_devices_edits_are_in_the_containers_spec() {
    let file = SpecFile::parse(WHOLE.as_bytes(), Format::Json).unwrap();
    let names: Vec<_> = file.devices().collect();
    assert_eq!(names, ["vendor.com/net.dev=0", "vendor.com/net.dev=bare:1"]);
    assert!(names.iter().all(|name| is_qualified(name)));
    let mut spec = container();
    file.edits().apply(&mut spec, look).unwrap();
    let edits = file.device("vendor.com/net.dev=0").unwrap();
    edits.apply(&mut spec, look).unwrap();
    let process = spec.process.as_ref().unwrap();
    assert_eq!(process.env, ["PATH=/vendor", "HOME=/", "ALL=1", "DEV=a=b"]);
    assert_eq!(process.user.additional_gids, [100, 44]);
    let linux = spec.linux.as_ref().unwrap();
    let device = |path: &str, kind: &str, major, minor, file_mode, uid| oci::Device {
        path: path.into(),
        kind: kind.into(),
        major,
        minor,
        file_mode,
        uid,
        gid: 100,
    };
    assert_eq!(
        linux.devices,
        [
            device("/dev/one", "c", 10, 229, 0o640, 1000),
            device("/dev/told", "b", 7, 1, 0o660, 5),
        ]
    );
    let rules = &linux.resources.as_ref().unwrap().devices;
    let rules: Vec<_> = rules
        .iter()
        .map(|rule| {
            (
                rule.allow,
                rule.kind.as_str(),
                rule.major,
                rule.minor,
                rule.access.as_str(),
            )
        })
        .collect();
    assert_eq!(
        rules,
        [
            (true, "c", Some(10), Some(229), "rw"),
            (true, "b", Some(7), Some(1), "rwm"),
        ]
    );
    let mounts: Vec<_> = spec
        .mounts
        .iter()
        .map(|mount| {
            (
                mount.destination.as_str(),
                mount.kind.as_str(),
                mount.source.as_str(),
            )
        })
        .collect();
    assert_eq!(
        mounts,
        [
            ("/", "", "old"),
            ("/run", "tmpfs", "tmpfs"),
            ("/usr/lib/v", "bind", "/lib/v"),
            ("/usr/lib/v/deep", "", "old"),
        ]
    );
    let hooks = spec.hooks.clone().unwrap_or_default().create_runtime;
    let hooks: Vec<_> = hooks
        .iter()
        .map(|hook| (hook.path.as_str(), hook.timeout))
        .collect();
    assert_eq!(hooks, [("/bin/h", Some(3))]);
    assert_eq!(linux.intel_rdt.as_ref().unwrap().clos_id, "c");

    let mut bare = container();
    let edits = file.device("vendor.com/net.dev=bare:1").unwrap();
    edits.apply(&mut bare, look).unwrap();
    let linux = bare.linux.unwrap();
    assert_eq!(linux.devices.len(), 1);
    assert!(linux.resources.unwrap_or_default().devices.is_empty());
    assert!(file.device("vendor.com/net=0").is_none());
}

#[test]
fn what_is_bound_into_a_user_namespace_gets_its_ids() {
    let mount = |options: &[&str], kind: &str| Mount {
        host_path: "/a".into(),
        container_path: "/b".into(),
        options: options.iter().map(|one| (*one).to_owned()).collect(),
        kind: kind.into(),
    };
    for (mount, added) in [
        (mount(&["bind"], ""), Some("idmap")),
        (mount(&["rbind"], ""), Some("ridmap")),
        (mount(&[], "bind"), Some("idmap")),
        (mount(&["bind", "ridmap"], ""), None),
        (mount(&[], "tmpfs"), None),
    ] {
        let resolved = mount.resolve(true).options;
        let last = resolved.get(mount.options.len()).map(String::as_str);
        assert_eq!(last, added, "{mount:?}");
        assert_eq!(mount.resolve(false).options, mount.options);
    }
}

#[test]
fn devices_that_are_not_as_told_are_refused() {
    let apply = |node: &str| {
        let text = format!(
            r#"{{"cdiVersion": "1.1.0", "kind": "v/c", "devices": [{{"name": "d", "containerEdits": {node}}}]}}"#
        );
        let file = SpecFile::parse(text.as_bytes(), Format::Json)?;
        file.device("v/c=d").unwrap().apply(&mut container(), look)
    };
    for (edits, right) in [
        (
            r#"{"deviceNodes": [{"path": "/dev/host", "type": "c"}]}"#,
            true,
        ),
        (
            r#"{"deviceNodes": [{"path": "/dev/host", "type": "u"}]}"#,
            true,
        ),
        (
            r#"{"deviceNodes": [{"path": "/dev/host", "type": "b"}]}"#,
            false,
        ),
        (r#"{"deviceNodes": [{"path": "/dev/gone"}]}"#, false),
        (
            r#"{"deviceNodes": [{"path": "/dev/gone", "type": "c"}]}"#,
            false,
        ),
        (
            r#"{"deviceNodes": [{"path": "/dev/gone", "type": "c", "major": 1}]}"#,
            true,
        ),
        (
            r#"{"deviceNodes": [{"path": "/dev/gone", "type": "p"}]}"#,
            true,
        ),
        (
            r#"{"netDevices": [{"hostInterfaceName": "a", "name": "b"}]}"#,
            false,
        ),
        (r#"{"intelRdt": {"enableMonitoring": true}}"#, false),
        (r#"{"intelRdt": {"closID": "x"}}"#, true),
    ] {
        let applied = apply(edits);
        assert_eq!(applied.is_ok(), right, "{edits}: {applied:?}");
    }
}

#[test]
fn a_file_is_refused_for_what_its_version_does_not_have() {
    let parse = |version: &str, kind: &str, name: &str, edits: &str| {
        let text = format!(
            r#"{{"cdiVersion": "{version}", "kind": "{kind}", "devices": [{{"name": "{name}", "containerEdits": {edits}}}]}}"#
        );
        SpecFile::parse(text.as_bytes(), Format::Json)
    };
    let plain = r#"{"env": ["A=b"]}"#;
    let host = r#"{"deviceNodes": [{"path": "/a", "hostPath": "/b"}]}"#;
    let typed = r#"{"mounts": [{"hostPath": "/a", "containerPath": "/b", "type": "bind"}]}"#;
    let groups = r#"{"additionalGids": [1]}"#;
    let rdt = r#"{"intelRdt": {}}"#;
    let schemata = r#"{"intelRdt": {"schemata": []}}"#;
    let net = r#"{"netDevices": [{"hostInterfaceName": "a", "name": "b"}]}"#;
    for (needed, kind, name, edits) in [
        ("0.3.0", "v/c", "d", plain),
        ("0.4.0", "v/c", "d", typed),
        ("0.5.0", "v/c", "0", plain),
        ("0.5.0", "v/c", "d", host),
        ("0.6.0", "v/c.d", "d", plain),
        ("0.7.0", "v/c", "d", groups),
        ("0.7.0", "v/c", "d", rdt),
        ("1.1.0", "v/c", "d", schemata),
        ("1.1.0", "v/c", "d", net),
    ] {
        for version in ["0.1.0", "0.2.0"].iter().chain(VERSIONS) {
            let parsed = parse(version, kind, name, edits);
            let right = since(version) >= since(needed) && VERSIONS.contains(version);
            assert_eq!(parsed.is_ok(), right, "{version} {needed}: {parsed:?}");
        }
    }
    assert!(parse("v0.3.0", "v/c", "d", plain).is_ok());
    assert!(parse("2.0.0", "v/c", "d", plain).is_err());
}

#[test]
fn a_file_that_says_something_wrong_is_refused() {
    for wrong in [
        r#"{"unknown": 1}"#,
        r#"{"env": ["=x"]}"#,
        r#"{"env": ["x"]}"#,
        r#"{"deviceNodes": [{"path": ""}]}"#,
        r#"{"deviceNodes": [{"path": "/a", "type": "x"}]}"#,
        r#"{"deviceNodes": [{"path": "/a", "permissions": "rx"}]}"#,
        r#"{"mounts": [{"hostPath": "/a"}]}"#,
        r#"{"mounts": [{"containerPath": "/a"}]}"#,
        r#"{"hooks": [{"hookName": "never", "path": "/a"}]}"#,
        r#"{"hooks": [{"hookName": "poststop", "path": "a"}]}"#,
        r#"{"hooks": [{"hookName": "poststop", "path": "/a", "timeout": 0}]}"#,
        r#"{"hooks": [{"hookName": "poststop", "path": "/a", "env": ["x"]}]}"#,
        r#"{"intelRdt": {"closID": "a/b"}}"#,
        r#"{"additionalGids": [-1]}"#,
        r#"{"netDevices": [{"hostInterfaceName": "a", "name": "b"}, {"hostInterfaceName": "a", "name": "c"}]}"#,
        "{}",
    ] {
        let text = format!(
            r#"{{"cdiVersion": "1.1.0", "kind": "v/c", "devices": [{{"name": "d", "containerEdits": {wrong}}}]}}"#
        );
        assert!(
            SpecFile::parse(text.as_bytes(), Format::Json).is_err(),
            "{wrong}"
        );
        assert!(
            SpecFile::parse(text.as_bytes(), Format::Yaml).is_err(),
            "{wrong}"
        );
    }
    let device = r#"{"name": "d", "containerEdits": {"env": ["A=b"]}}"#;
    for devices in [
        "",
        &format!("{device},{device}"),
        r#"{"containerEdits": {"env": ["A=b"]}}"#,
    ] {
        let text = format!(r#"{{"cdiVersion": "1.1.0", "kind": "v/c", "devices": [{devices}]}}"#);
        assert!(
            SpecFile::parse(text.as_bytes(), Format::Json).is_err(),
            "{devices}"
        );
    }
    for kind in ["v", "v/", "/c", "1/c", "v/c=d", "v/c/d", "v./c", "é/c"] {
        let text = format!(r#"{{"cdiVersion": "1.1.0", "kind": "{kind}", "devices": [{device}]}}"#);
        assert!(
            SpecFile::parse(text.as_bytes(), Format::Json).is_err(),
            "{kind}"
        );
    }
    let long = vec![b' '; limits::CDI_FILE_BYTES + 1];
    assert!(
        SpecFile::parse(&long, Format::Json)
            .unwrap_err()
            .contains("larger")
    );
}

#[test]
fn yaml_is_read_as_vendors_write_it() {
    let text = "---\ncdiVersion: \"0.5.0\"\nkind: vendor.com/gpu\ncontainerEdits:\n  env:\n  hooks: null\n\
                devices:\n- name: all\n  containerEdits:\n    deviceNodes:\n    - path: /dev/host\n      fileMode: 0620\n      uid: 0\n";
    let file = SpecFile::parse(text.as_bytes(), Format::Yaml).unwrap();
    let mut spec = container();
    let edits = file.device("vendor.com/gpu=all").unwrap();
    edits.apply(&mut spec, look).unwrap();
    let devices = spec.linux.unwrap().devices;
    let device = devices.first().unwrap();
    assert_eq!((device.file_mode, device.uid, device.gid), (0o620, 0, 100));
}

#[test]
fn annotations_ask_for_devices_by_whole_names() {
    let of = |pairs: &[(&str, &str)]| {
        let pairs = pairs.iter();
        from_annotations(
            &pairs
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
        )
    };
    let asked = [
        ("cdi.k8s.io/b", "v.com/c=1,v.com/c=2"),
        ("cdi.k8s.io/a", "v/d=x"),
        ("other", "v/c=3"),
    ];
    assert_eq!(of(&asked).unwrap(), ["v/d=x", "v.com/c=1", "v.com/c=2"]);
    for wrong in ["", "v/c", "c=1", "v/c=", "v/c=1,", "v/c=1 ,v/c=2"] {
        let error = of(&[("cdi.k8s.io/a", wrong)]).unwrap_err();
        assert!(
            error.starts_with("invalid CDI device name"),
            "{wrong}: {error}"
        );
    }
}
