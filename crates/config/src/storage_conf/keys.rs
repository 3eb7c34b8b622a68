//! Every key of `containers-storage.conf(5)`, once.

use crate::row::Kind;

/// A key.
#[derive(Debug)]
pub(super) struct Key {
    /// The table that it stands in.
    pub(super) table: &'static str,
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) meaning: Meaning,
}

/// What becomes of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// The option of that name in `[crio]`.
    Option(&'static str),
    /// A path that is one, in which environment variables are expanded.
    Path(&'static str),
    /// A storage option of that name; of a list one for each.
    Storage(&'static str),
    /// The same, written in octal.
    Mask(&'static str),
    /// How images are pulled.
    Pull,
    /// Nothing, for this reason.
    Ignored(&'static str),
}

use Meaning::{Ignored, Mask, Option, Path, Pull, Storage};

const fn key(table: &'static str, name: &'static str, kind: Kind, meaning: Meaning) -> Key {
    Key {
        table,
        name,
        kind,
        meaning,
    }
}

const OPTIONS: &str = "storage.options";
const OVERLAY: &str = "storage.options.overlay";
const VFS: &str = "storage.options.vfs";
const BTRFS: &str = "storage.options.btrfs";
const ZFS: &str = "storage.options.zfs";
const ROOT_ONLY: &str = "the daemon is root";
const NO_AUTO: &str = "the kubelet hands out user namespaces";
const OTHER_DRIVER: &str = "there is no such storage driver here";

/// All of them, in the order in which their storage options count: later ones win.
pub(super) const KEYS: &[Key] = &[
    key("storage", "driver", Kind::Text, Option("storage_driver")),
    key("storage", "graphroot", Kind::Text, Path("root")),
    key("storage", "runroot", Kind::Text, Path("runroot")),
    key("storage", "imagestore", Kind::Text, Option("imagestore")),
    key(
        "storage",
        "driver_priority",
        Kind::List,
        Ignored("overlay is used where no driver is named"),
    ),
    key(
        "storage",
        "rootless_storage_path",
        Kind::Text,
        Ignored(ROOT_ONLY),
    ),
    key(
        "storage",
        "transient_store",
        Kind::Bool,
        Ignored("records of containers are kept as CRI-O keeps them"),
    ),
    key(
        OPTIONS,
        "additionalimagestores",
        Kind::List,
        Storage("imagestore"),
    ),
    key(
        OPTIONS,
        "additionallayerstores",
        Kind::List,
        Storage("additionallayerstore"),
    ),
    key(OPTIONS, "imagestore", Kind::Text, Option("imagestore")),
    key(OPTIONS, "size", Kind::Text, Storage("size")),
    key(
        OPTIONS,
        "mount_program",
        Kind::Text,
        Storage("mount_program"),
    ),
    key(
        OPTIONS,
        "skip_mount_home",
        Kind::Text,
        Storage("skip_mount_home"),
    ),
    key(
        OPTIONS,
        "ignore_chown_errors",
        Kind::Text,
        Storage("ignore_chown_errors"),
    ),
    key(OPTIONS, "force_mask", Kind::Integer, Mask("force_mask")),
    key(OPTIONS, "mountopt", Kind::Text, Storage("mountopt")),
    key(
        OPTIONS,
        "use_composefs",
        Kind::Text,
        Storage("overlay.use_composefs"),
    ),
    key(OPTIONS, "pull_options", Kind::Map, Pull),
    key(
        OPTIONS,
        "root-auto-userns-user",
        Kind::Text,
        Ignored(NO_AUTO),
    ),
    key(
        OPTIONS,
        "auto-userns-min-size",
        Kind::Integer,
        Ignored(NO_AUTO),
    ),
    key(
        OPTIONS,
        "auto-userns-max-size",
        Kind::Integer,
        Ignored(NO_AUTO),
    ),
    key(
        OPTIONS,
        "disable-volatile",
        Kind::Bool,
        Storage("disable_volatile"),
    ),
    key(BTRFS, "min_space", Kind::Text, Ignored(OTHER_DRIVER)),
    key(BTRFS, "size", Kind::Text, Ignored(OTHER_DRIVER)),
    key(
        OVERLAY,
        "ignore_chown_errors",
        Kind::Text,
        Storage("overlay.ignore_chown_errors"),
    ),
    key(
        OVERLAY,
        "mount_program",
        Kind::Text,
        Storage("overlay.mount_program"),
    ),
    key(OVERLAY, "mountopt", Kind::Text, Storage("overlay.mountopt")),
    key(OVERLAY, "size", Kind::Text, Storage("overlay.size")),
    key(OVERLAY, "inodes", Kind::Text, Storage("overlay.inodes")),
    key(
        OVERLAY,
        "skip_mount_home",
        Kind::Text,
        Storage("overlay.skip_mount_home"),
    ),
    key(
        OVERLAY,
        "force_mask",
        Kind::Text,
        Storage("overlay.force_mask"),
    ),
    key(
        OVERLAY,
        "use_composefs",
        Kind::Text,
        Storage("overlay.use_composefs"),
    ),
    key(OVERLAY, "sync", Kind::Text, Storage("overlay.sync")),
    key(
        VFS,
        "ignore_chown_errors",
        Kind::Text,
        Storage("vfs.ignore_chown_errors"),
    ),
    key(VFS, "sync", Kind::Text, Storage("vfs.sync")),
    key(ZFS, "fsname", Kind::Text, Ignored(OTHER_DRIVER)),
    key(ZFS, "mountopt", Kind::Text, Ignored(OTHER_DRIVER)),
    key(ZFS, "size", Kind::Text, Ignored(OTHER_DRIVER)),
];

/// The key `name` in `table`.
pub(super) fn find(table: &str, name: &str) -> std::option::Option<&'static Key> {
    KEYS.iter()
        .find(|key| key.table == table && key.name == name)
}

/// Whether `table` holds keys, or tables that do. `thinpool` once did.
pub(super) fn is_table(table: &str) -> bool {
    let holds = |key: &Key| {
        let rest = key.table.strip_prefix(table);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    KEYS.iter().any(holds) || table == "storage.options.thinpool"
}
