//! Overlays that fuse-overlayfs mounts in place of the kernel, and layers that only it can show.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crioxide_storage::{
    CheckOptions, ContainerId, Depth, ForceMask, ImageId, Item, Options, Store, View,
};
use tempfile::TempDir;

use crate::archive::{Archive, base, header};
use crate::harness::{TestStore, options, put_image};
use crate::peers::new_container;
use crate::vfs::{layers, shape};

const PROGRAM: &str = "/usr/bin/fuse-overlayfs";

/// A store whose overlays a program mounts.
struct ByProgram {
    store: Store,
    options: Options,
    dir: TempDir,
}

impl ByProgram {
    fn new(mask: Option<u32>) -> Option<Self> {
        if !Path::new(PROGRAM).is_file() || !Path::new("/dev/fuse").try_exists().unwrap() {
            eprintln!("skipped: no {PROGRAM}, or no /dev/fuse");
            return None;
        }
        Some(Self::with(Path::new(PROGRAM), mask))
    }

    fn with(program: &Path, mask: Option<u32>) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("crioxide-store-")
            .tempdir()
            .unwrap();
        let options = Options {
            mount_program: Some(program.to_owned()),
            force_mask: mask.map(|mask| ForceMask::new(mask).unwrap()),
            ..options(dir.path())
        };
        let store = Store::open(options.clone()).unwrap();
        Self {
            store,
            options,
            dir,
        }
    }

    fn container(&self, name: &str, image: &ImageId) -> (ContainerId, PathBuf) {
        let wanted = new_container(name, Some(image));
        let id = self.store.create_container(wanted).unwrap().id.clone();
        let root = self.store.mount(&id).unwrap();
        (id, root)
    }
}

impl Drop for ByProgram {
    fn drop(&mut self) {
        for mount in sys::mount::beneath(self.dir.path()).unwrap() {
            sys::mount::unmount_lazily(&mount).unwrap();
        }
    }
}

/// The programs that mounted `root`.
fn programs(root: &Path) -> Vec<i32> {
    let root = root.to_str().unwrap();
    let mut pids = Vec::new();
    for entry in fs::read_dir("/proc").unwrap() {
        let path = entry.unwrap().path();
        let Ok(line) = fs::read(path.join("cmdline")) else {
            continue;
        };
        let line = String::from_utf8_lossy(&line).into_owned();
        if line.contains("fuse-overlayfs") && line.split('\0').any(|word| word == root) {
            let pid = path.file_name().unwrap().to_str().unwrap();
            pids.push(pid.parse().unwrap());
        }
    }
    pids
}

fn until(what: &str, seen: impl Fn() -> bool) {
    let began = Instant::now();
    while !seen() {
        assert!(began.elapsed() < Duration::from_secs(20), "never: {what}");
        std::thread::yield_now();
    }
}

fn is_fuse(root: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut rows = table.lines();
    rows.any(|row| row.contains(root.to_str().unwrap()) && row.contains("fuse.fuse-overlayfs"))
}

#[test]
fn a_program_shows_what_the_kernel_shows_and_ends_with_its_mount() {
    let Some(by_program) = ByProgram::new(None) else {
        return;
    };
    let kernel = TestStore::new();
    let tars = layers();
    let one = kernel.image(&tars, &["localhost/all:1"]);
    let other = put_image(&by_program.store, &tars, &["localhost/all:1"])
        .id
        .clone();
    assert_eq!(one, other);
    let expected = kernel.path().join("mounted");
    fs::create_dir(&expected).unwrap();
    kernel
        .store
        .mount_image(&one, &expected, View::default())
        .unwrap();

    let (id, root) = by_program.container("c", &other);
    assert!(is_fuse(&root));
    assert_eq!(shape(&root), shape(&expected));
    fs::write(root.join("new"), "x").unwrap();
    fs::remove_file(root.join("etc/hostname")).unwrap();
    assert_eq!(programs(&root).len(), 1);
    assert_eq!(by_program.store.mount(&id).unwrap(), root, "once is enough");
    assert_eq!(programs(&root).len(), 1);

    by_program.store.unmount(&id).unwrap();
    until("the program's end", || programs(&root).is_empty());
    assert!(!by_program.store.is_mounted(&id).unwrap());
    by_program.store.mount(&id).unwrap();
    assert_eq!(fs::read_to_string(root.join("new")).unwrap(), "x");
    assert!(!root.join("etc/hostname").try_exists().unwrap());

    // An image by itself can't be written.
    let target = by_program.dir.path().join("image");
    fs::create_dir(&target).unwrap();
    by_program
        .store
        .mount_image(&other, &target, View::default())
        .unwrap();
    assert!(is_fuse(&target));
    assert_eq!(shape(&target), shape(&expected));
    let written = fs::write(target.join("new"), "x").unwrap_err();
    assert_eq!(written.kind(), io::ErrorKind::ReadOnlyFilesystem);
    sys::mount::unmount_lazily(&target).unwrap();
    sys::mount::unmount_lazily(&expected).unwrap();

    let flag = by_program.store.root().join("overlay/.has-mount-program");
    assert_eq!(fs::read_to_string(flag).unwrap(), "true");
    by_program.store.delete_container(&id).unwrap();
    by_program.store.remove_image(&other).unwrap();
    until("the programs' ends", || {
        programs(&root).is_empty() && programs(&target).is_empty()
    });
}

#[test]
fn what_a_program_mounted_outlives_us_and_its_death_is_mended() {
    let Some(by_program) = ByProgram::new(None) else {
        return;
    };
    let image = put_image(&by_program.store, &[base()], &["localhost/base:1"])
        .id
        .clone();
    let (id, root) = by_program.container("c", &image);
    fs::write(root.join("new"), "x").unwrap();
    let again = Store::open(by_program.options.clone()).unwrap();
    assert!(again.is_mounted(&id).unwrap());
    assert_eq!(fs::read_to_string(root.join("new")).unwrap(), "x");

    let kill = || {
        let pids = programs(&root);
        assert_eq!(pids.len(), 1);
        let pid = rustix::process::Pid::from_raw(pids[0]).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        until("a dead mount", || rustix::fs::statfs(&root).is_err());
    };
    kill();
    assert!(again.is_mounted(&id).unwrap(), "it is in the way still");
    again.mount(&id).unwrap();
    assert_eq!(fs::read_to_string(root.join("new")).unwrap(), "x");
    kill();
    let repaired = Store::open(by_program.options.clone()).unwrap();
    repaired.delete_container(&id).unwrap();
    repaired.remove_image(&image).unwrap();
    assert!(!root.try_exists().unwrap());
}

#[test]
fn a_program_that_mounts_nothing_is_told() {
    let dir = tempfile::tempdir().unwrap();
    for (script, told) in [
        ("echo out of order >&2; exit 3", "out of order"),
        ("exit 0", "has mounted nothing"),
    ] {
        let program = dir.path().join(format!("mounts-{}", script.len()));
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let by_program = ByProgram::with(&program, None);
        let image = put_image(&by_program.store, &[base()], &["localhost/base:1"])
            .id
            .clone();
        let wanted = new_container("c", Some(&image));
        let id = by_program
            .store
            .create_container(wanted)
            .unwrap()
            .id
            .clone();
        let error = by_program.store.mount(&id).unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains(told), "{source}");
        assert!(!by_program.store.is_mounted(&id).unwrap());
        by_program.store.delete_container(&id).unwrap();
    }
}

#[test]
fn with_a_mask_owners_permissions_and_devices_show_and_are_not_there() {
    let Some(by_program) = ByProgram::new(Some(0o755)) else {
        return;
    };
    let mut owned = header(b'0', "bin/tool").mode(0o4750).size(2);
    owned.uid = b"0001750\0".to_vec();
    owned.gid = b"0000144\0".to_vec();
    let mut device = header(b'3', "dev/null").mode(0o666);
    device.device = (1, 3);
    let tar = Archive::default()
        .add(&header(b'5', "./").mode(0o711))
        .dir("bin/")
        .dir("dev/")
        .add(&owned)
        .data(b"me")
        .hard_link("bin/also", "bin/tool")
        .add(&device)
        .add(&header(b'6', "dev/fifo").mode(0o600))
        .add(&header(b'5', "tmp/").mode(0o1777))
        .symlink("bin/link", "tool")
        .symlink("lib", "bin")
        .end();
    let above = Archive::default()
        .file("bin/.wh.link", "")
        .file("new", "x")
        .end();
    let tars = [tar.clone(), above];
    let image = put_image(&by_program.store, &tars, &["localhost/masked:1"])
        .id
        .clone();
    let store = &by_program.store;
    let layer = store
        .layer_for(&crioxide_storage::Digest::of(&tar), None)
        .unwrap()
        .unwrap();
    let diff = store
        .root()
        .join("overlay")
        .join(layer.as_str())
        .join("diff");
    for name in ["", "bin", "bin/tool", "dev/null", "dev/fifo", "tmp"] {
        let on_disk = fs::symlink_metadata(diff.join(name)).unwrap();
        assert_eq!(on_disk.mode() & 0o7777, 0o755, "{name}");
        assert_eq!((on_disk.uid(), on_disk.gid()), (0, 0), "{name}");
        assert!(on_disk.is_dir() || on_disk.is_file(), "{name}");
    }
    for (name, value) in [
        ("", "0:0:0711:dir"),
        ("bin/tool", "1000:100:4750:file"),
        ("dev/null", "0:0:0666:char-1-3"),
        ("dev/fifo", "0:0:0600:pipe"),
        ("tmp", "0:0:1777:dir"),
    ] {
        let mut told = [0; 64];
        let key = "user.containers.override_stat";
        let length = rustix::fs::lgetxattr(diff.join(name), key, &mut told).unwrap();
        assert_eq!(
            std::str::from_utf8(&told[..length]).unwrap(),
            value,
            "{name}"
        );
    }
    let mut again = Vec::new();
    store.write_layer(&layer, &mut again).unwrap();
    assert!(again == tar, "the archive is what it was");

    let (id, root) = by_program.container("c", &image);
    let shown = |name: &str| fs::symlink_metadata(root.join(name)).unwrap();
    assert_eq!(fs::read_link(root.join("lib")).unwrap(), Path::new("bin"));
    let tool = shown("bin/tool");
    assert_eq!(
        (tool.uid(), tool.gid(), tool.mode() & 0o7777),
        (1000, 100, 0o4750)
    );
    assert_eq!(shown("bin/also").ino(), tool.ino());
    assert_eq!(shown("tmp").mode() & 0o7777, 0o1777);
    let null = shown("dev/null");
    if null.is_file() {
        // Debian 12's 1.10.
        eprintln!("this fuse-overlayfs knows no kinds of files: not seen");
    } else {
        assert!(shown("dev/fifo").file_type().is_fifo());
        assert!(null.file_type().is_char_device(), "{null:?}");
        assert_eq!(null.rdev(), rustix::fs::makedev(1, 3));
    }
    assert!(!root.join("bin/link").try_exists().unwrap());
    assert_eq!(fs::read_to_string(root.join("new")).unwrap(), "x");
    store.delete_container(&id).unwrap();

    let check = CheckOptions {
        depth: Depth::Attributes,
        unreferenced: None,
    };
    assert_eq!(store.check(&check).unwrap(), []);
    let value = b"0:0:0777:dir";
    let key = "user.containers.override_stat";
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::lsetxattr(diff.join("tmp"), key, value, flags).unwrap();
    let found = store.check(&check).unwrap();
    let item = Item::Layer(layer);
    let damage = found.iter().find(|damage| damage.item == item).unwrap();
    assert!(damage.reason.contains("tmp has another mode"), "{damage:?}");
}

/// Whether nobody holds the table of mounts.
fn table_is_free(by_program: &ByProgram) -> bool {
    let lock = by_program
        .options
        .run_root
        .join("overlay-layers/mountpoints.lock");
    let lock = sys::lock::LockFile::open(&lock).unwrap();
    lock.try_lock(sys::lock::Kind::Exclusive).unwrap()
}

#[test]
fn a_program_that_hangs_while_it_mounts_holds_up_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let (program, go, runs) = (
        dir.path().join("mounts"),
        dir.path().join("go"),
        dir.path().join("runs"),
    );
    // What it mounts does not count. The first of all waits.
    let script = format!(
        "#!/bin/sh\nmkdir {runs}.first && waits=yes\necho \"$3\" >> {runs}\n\
         while [ \"$waits\" ] && [ ! -e {go} ]; do sleep 0.05; done\nexec mount -t tmpfs none \"$3\"\n",
        runs = runs.display(),
        go = go.display(),
    );
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let by_program = ByProgram::with(&program, None);
    let store = &by_program.store;
    let image = put_image(store, &[base()], &["localhost/base:1"])
        .id
        .clone();
    let container = |name: &str| {
        let wanted = new_container(name, Some(&image));
        store.create_container(wanted).unwrap().id.clone()
    };
    let (slow, quick) = (container("slow"), container("quick"));
    let again = Store::open(by_program.options.clone()).unwrap();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| store.mount(&slow));
        until("the first mount", || {
            fs::read_to_string(&runs).is_ok_and(|text| text.lines().count() == 1)
        });
        // By another process, too.
        let second = scope.spawn(|| again.mount(&slow));
        store.mount(&quick).unwrap();
        store.unmount(&quick).unwrap();
        store.delete_container(&quick).unwrap();
        assert!(table_is_free(&by_program));
        assert!(!first.is_finished() && !second.is_finished());
        fs::write(&go, "").unwrap();
        let root = first.join().unwrap().unwrap();
        assert_eq!(second.join().unwrap().unwrap(), root);
    });
    let runs = fs::read_to_string(&runs).unwrap();
    assert_eq!(runs.lines().count(), 2, "one for each container: {runs}");
}

#[test]
fn a_program_that_does_not_answer_holds_up_nobody_else() {
    let Some(by_program) = ByProgram::new(None) else {
        return;
    };
    let store = &by_program.store;
    let image = put_image(store, &[base()], &["localhost/base:1"])
        .id
        .clone();
    let (hung, root) = by_program.container("hung", &image);
    let pid = rustix::process::Pid::from_raw(programs(&root)[0]).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    std::thread::scope(|scope| {
        let again = scope.spawn(|| store.mount(&hung));
        let (quick, _) = by_program.container("quick", &image);
        assert!(store.is_mounted(&hung).unwrap());
        store.delete_container(&quick).unwrap();
        assert!(table_is_free(&by_program) && !again.is_finished());
        rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
        assert_eq!(again.join().unwrap().unwrap(), root);
    });
    store.delete_container(&hung).unwrap();
}
