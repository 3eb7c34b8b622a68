use std::fs;
use std::path::PathBuf;

use super::*;

/// The options in force, as texts.
fn shown(conf: &StorageConf) -> Vec<String> {
    let options = conf.options().into_iter();
    options
        .map(|(key, value, _)| format!("{key} = {}", value.to_toml()))
        .collect()
}

fn read(text: &str) -> Result<StorageConf, Error> {
    let mut conf = StorageConf::default();
    conf.take(Path::new("storage.conf"), text)?;
    Ok(conf)
}

#[test]
fn keys_become_options_of_crio() {
    let text = r#"
[storage]
driver = "overlay"
graphroot = "/g/$UID/x"
runroot = "/r${CRIOXIDE_NOT_SET}/y"
imagestore = "/images"
transient_store = false
[storage.options]
additionalimagestores = ["/a", "/b"]
mountopt = "nosuid"
force_mask = 448
[storage.options.overlay]
mountopt = "nodev,metacopy=on"
size = "10G"
inodes = "1000"
[storage.options.pull_options]
enable_partial_images = "true"
"#;
    let conf = read(text).unwrap();
    assert_eq!(
        shown(&conf),
        [
            r#"storage_driver = "overlay""#,
            r#"root = "/g/0/x""#,
            r#"runroot = "/r/y""#,
            r#"imagestore = "/images""#,
            r#"storage_option = ["imagestore=/a", "imagestore=/b", "force_mask=700", "mountopt=nosuid", "overlay.mountopt=nodev,metacopy=on", "overlay.size=10G", "overlay.inodes=1000"]"#,
        ]
    );
    assert_eq!(conf.pull_options()["enable_partial_images"], "true");
    assert!(conf.unknown.is_empty());
}

#[test]
fn what_is_unknown_or_does_nothing_is_told_with_its_line() {
    let text = "[storage]\ndriver_priority = [\"vfs\"]\nnew = 1\n[storage.options.zfs]\nfsname = \"z\"\n[other]\n";
    let conf = read(text).unwrap();
    let unknown = conf.unknown.iter();
    let unknown: Vec<_> = unknown.map(|(key, at)| format!("{at} {key}")).collect();
    assert_eq!(
        unknown,
        ["storage.conf:3 storage.new", "storage.conf:6 other"]
    );
    let ignored: Vec<_> = conf
        .ignored()
        .map(|(key, at, _)| format!("{at} {key}"))
        .collect();
    assert_eq!(
        ignored,
        [
            "storage.conf:2 storage.driver_priority",
            "storage.conf:5 storage.options.zfs.fsname"
        ]
    );
}

#[test]
fn a_wrong_type_names_file_and_line() {
    for (text, told) in [
        (
            "[storage]\ngraphroot = 1\n",
            "storage.conf:2: storage.graphroot wants a string",
        ),
        (
            "[storage.options.overlay]\nskip_mount_home = true\n",
            "storage.conf:2: storage.options.overlay.skip_mount_home wants a string",
        ),
        (
            "[storage.options]\nadditionalimagestores = [\"/a\", {add = true}]\n",
            "storage.conf:2: storage.options.additionalimagestores wants an array of strings",
        ),
    ] {
        let error = read(text).unwrap_err().to_string();
        assert_eq!(error, format!("unable to decode configuration: {told}"));
    }
    let error = read("[storage]\ndriver = \n").unwrap_err().to_string();
    assert!(error.contains("storage.conf:2: "), "{error}");
}

/// A directory tree with these files.
fn tree(files: &[(&str, &str)]) -> (tempfile::TempDir, StorageSources) {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let at = |name: &str| dir.path().join(name);
    let sources = StorageSources {
        directories: vec![at("usr"), at("etc")],
        user: Some(at("home")),
        ..StorageSources::default()
    };
    (dir, sources)
}

#[test]
fn one_main_file_is_read_and_drop_ins_by_name() {
    let root = |path: &str| format!("[storage]\ngraphroot = \"{path}\"\n");
    let run = |path: &str| format!("[storage]\nrunroot = \"{path}\"\n");
    type Files<'a> = &'a [(&'a str, String)];
    let cases: [(Files<'_>, &[&str]); 5] = [
        (&[], &[]),
        (
            &[
                ("usr/storage.conf", root("/usr")),
                ("etc/storage.conf", run("/etc")),
            ],
            &[r#"runroot = "/etc""#],
        ),
        (&[("usr/storage.conf", root("/usr"))], &[r#"root = "/usr""#]),
        (
            &[
                ("etc/storage.conf", root("/etc")),
                ("usr/storage.conf.d/10.conf", root("/10")),
                ("etc/storage.conf.d/10.conf", run("/of-etc")),
                ("usr/storage.conf.d/05.conf", root("/05")),
                ("etc/storage.conf.d/99.txt", root("/no")),
            ],
            &[r#"root = "/05""#, r#"runroot = "/of-etc""#],
        ),
        (
            &[
                ("etc/storage.rootful.conf.d/1.conf", root("/rootful")),
                ("etc/storage.rootless.conf.d/2.conf", root("/rootless")),
                ("home/storage.conf.d/0.conf", run("/home")),
            ],
            &[r#"root = "/rootful""#, r#"runroot = "/home""#],
        ),
    ];
    for (files, wanted) in cases {
        let files: Vec<_> = files
            .iter()
            .map(|(name, text)| (*name, text.as_str()))
            .collect();
        let (_dir, sources) = tree(&files);
        assert_eq!(
            shown(&StorageConf::load(&sources).unwrap()),
            wanted,
            "{files:?}"
        );
    }
}

#[test]
fn the_environment_names_the_only_file_the_driver_and_the_options() {
    let (dir, mut sources) = tree(&[
        (
            "etc/storage.conf",
            "[storage.options.overlay]\nsize = \"1G\"\n",
        ),
        ("etc/storage.conf.d/1.conf", "[storage]\ndriver = \"vfs\"\n"),
        (
            "named",
            "[storage]\ndriver = \"overlay\"\ngraphroot = \"/n\"\n",
        ),
        ("last", "[storage]\nrunroot = \"/l\"\n"),
    ]);
    sources.last = Some(dir.path().join("last"));
    let conf = StorageConf::load(&sources).unwrap();
    assert_eq!(
        shown(&conf),
        [
            r#"storage_driver = "vfs""#,
            r#"runroot = "/l""#,
            r#"storage_option = ["overlay.size=1G"]"#
        ]
    );
    sources.named = Some(dir.path().join("named"));
    sources.driver = Some("vfs".into());
    sources.options = Some("overlay.mountopt=nodev,size=2G".into());
    let conf = StorageConf::load(&sources).unwrap();
    let (options, last) = (
        shown(&conf),
        r#"storage_option = ["overlay.mountopt=nodev", "size=2G"]"#,
    );
    assert_eq!(
        options[1..],
        [
            r#"root = "/n""#,
            r#"runroot = "/l""#,
            r#"storage_driver = "vfs""#,
            last
        ]
    );
    sources.named = Some(PathBuf::from("/nowhere"));
    assert!(matches!(
        StorageConf::load(&sources),
        Err(Error::Read { .. })
    ));
}

#[test]
fn lists_are_replaced_or_added_to_as_they_say() {
    let stores = |list: &str| format!("[storage.options]\nadditionalimagestores = [{list}]\n");
    for (first, second, wanted) in [
        (r#""/a""#, r#""/b""#, r#"["imagestore=/b"]"#),
        (
            r#""/a""#,
            r#""/b", {append=true}"#,
            r#"["imagestore=/a", "imagestore=/b"]"#,
        ),
        (
            r#""/a", {append=true}"#,
            r#""/b""#,
            r#"["imagestore=/a", "imagestore=/b"]"#,
        ),
        (
            r#""/a", {append=true}"#,
            r#""/b", {append=false}"#,
            r#"["imagestore=/b"]"#,
        ),
    ] {
        let mut conf = read(&stores(first)).unwrap();
        conf.take(Path::new("2"), &stores(second)).unwrap();
        assert_eq!(shown(&conf), [format!("storage_option = {wanted}")]);
    }
}
