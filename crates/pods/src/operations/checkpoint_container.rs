//! CheckpointContainer: freeze → dump → pack → thaw → publish.
//!
//! criu dumps the processes by the OCI runtime's `checkpoint` and leaves them running. They stand
//! still from before that until their changes on disk are read too, so that both belong together.
//! The archive is written beside its place and renamed; whatever fails, and whatever a killed daemon
//! had begun, is undone: the container runs on and nothing of the archive is left.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ::runtime::checkpoint::{connect_pipes, descriptors};
use rustix::fs::{Mode, OFlags};
use sys::spawn::{self, Program};

use super::intent::Subject;
use super::stage::{Doing, Plan, Stage, perform};
use super::{Key, Outcome, Progress, chain};
use crate::checkpoint::{self, Pack, available, images_dir, work_dir};
use crate::node::{Node, blocking};
use crate::records::Dirs;
use crate::state::container::{Container, Phase};
use crate::{ContainerId, Error, cgroups, handlers, monitors, records};

/// Name of the operation.
pub(crate) const OPERATION: &str = "checkpoint-container";
/// What it may take where the caller gives no time.
const TIMEOUT: Duration = Duration::from_secs(240);
/// What is kept of a runtime's words.
const WORDS: usize = 16 * 1024;
/// Bytes of an image file that is rewritten (ours: an entry for each open file).
const IMAGE_BYTES: u64 = 256 << 20;

/// What a checkpoint is about.
pub(crate) struct Checkpoint {
    node: Arc<Node>,
    container: Arc<Container>,
    /// Its handler.
    handler: Arc<runtime::Handler>,
    dirs: Dirs,
    work: PathBuf,
    location: PathBuf,
    temporary: PathBuf,
    deadline: Instant,
}

/// The stages.
pub(crate) const PLAN: &Plan<Checkpoint> = &[
    Stage {
        name: "freeze",
        after: &[],
        act: |checkpoint| Box::pin(freeze(checkpoint)),
        undo: Some(undo_freeze),
    },
    Stage {
        name: "dump",
        after: &["freeze"],
        act: |checkpoint| Box::pin(dump(checkpoint)),
        undo: Some(undo_dump),
    },
    Stage {
        name: "pack",
        after: &["dump"],
        act: |checkpoint| Box::pin(pack(checkpoint)),
        undo: Some(undo_pack),
    },
    Stage {
        name: "thaw",
        after: &["pack"],
        act: |checkpoint| Box::pin(cgroups::thaw(&checkpoint.node, &checkpoint.container)),
        undo: None,
    },
    Stage {
        name: "publish",
        after: &["thaw"],
        act: |checkpoint| Box::pin(publish(checkpoint)),
        undo: None,
    },
];

/// Writes a checkpoint of a running container to `location`.
pub(crate) async fn run(
    node: &Arc<Node>,
    id: &str,
    location: PathBuf,
    timeout: Option<Duration>,
) -> Outcome {
    let container = node.table.load().container(id)?;
    let key = Key {
        kind: OPERATION,
        subject: container.id.to_string(),
    };
    let fingerprint = location.display().to_string();
    let deadline = Instant::now()
        .checked_add(timeout.unwrap_or(TIMEOUT))
        .ok_or_else(|| Error::Invalid("the timeout is too long".to_owned()))?;
    let node = Arc::clone(node);
    let operations = Arc::clone(&node.operations);
    operations
        .run(key, fingerprint, |progress| async move {
            let id = container.id.clone();
            work(&node, &id, location, deadline, &progress)
                .await
                .map(|()| String::new())
        })
        .await
}

async fn work(
    node: &Arc<Node>,
    id: &ContainerId,
    location: PathBuf,
    deadline: Instant,
    progress: &Progress,
) -> Result<(), Error> {
    let snapshot = node.table.load();
    let container = snapshot.container(id.as_str())?;
    let live = node.live(&container.pod);
    let _gate = live.gate.read().await;
    // An update writes to the cgroup that is frozen here.
    let _update = live.updates.lock().await;
    let snapshot = node.table.load();
    let container = snapshot.container(id.as_str())?;
    let pod = snapshot.pod(container.pod.as_str())?;
    if !matches!(container.phase, Phase::Running { .. }) {
        return Err(Error::WrongState(format!("container {id} is not running")));
    }
    if container.made.notifier.is_some() {
        return Err(Error::WrongState(format!(
            "container {id} has a seccomp notifier: criu does not keep what a filter leaves to a listener"
        )));
    }
    if pod.request.id_map.is_some() {
        return Err(Error::WrongState(format!(
            "container {id} is in a user namespace: a checkpoint of one is not built"
        )));
    }
    let dirs = node.dirs(id.as_str()).await?;
    let dirs = dirs.ok_or_else(|| Error::Internal("no record".to_owned()))?;
    let (looker, place) = (Arc::clone(node), location.clone());
    let looked = move || {
        available(&looker)?;
        temporary(&place)
    };
    let temporary = blocking(&node.pools.files, looked).await?;
    let subject = Subject {
        operation: OPERATION.to_owned(),
        pod: container.pod.clone(),
        container: Some(id.clone()),
        cgroup_parent: pod.made.cgroup_parent.clone(),
        archive: Some(temporary.clone()),
    };
    let checkpoint = Checkpoint {
        node: Arc::clone(node),
        container,
        handler: handlers::of(node, &pod)?,
        work: work_dir(&dirs.persistent),
        dirs,
        location,
        temporary,
        deadline,
    };
    perform(node, &subject, progress, &checkpoint, PLAN).await?;
    if let Err(error) = note(node, id, &checkpoint.dirs).await {
        // The archive is there: only when it was made will not be told after a restart.
        tracing::warn!(
            container = id.as_str(),
            error = chain(&error),
            "checkpoint not recorded"
        );
    }
    let (container, location) = (id.as_str(), checkpoint.location.display());
    tracing::info!(container, %location, "container checkpointed");
    let dir = checkpoint.work.clone();
    if let Err(error) = blocking(&node.pools.files, move || checkpoint::remove_dir(&dir)).await {
        // The next checkpoint, or the container's removal, takes it away.
        tracing::warn!(container, error = chain(&error), "criu's files not removed");
    }
    Ok(())
}

/// Has the container tell when its checkpoint was made.
async fn note(node: &Arc<Node>, id: &ContainerId, dirs: &Dirs) -> Result<(), Error> {
    let Ok(container) = node.table.load().container(id.as_str()) else {
        return Ok(());
    };
    let live = node.live(&container.pod);
    let _states = live.states.lock().await;
    node.table.checkpointed(id, SystemTime::now());
    let container = node.table.load().container(id.as_str())?;
    let dirs = dirs.clone();
    let write = move || records::write_state(&container, &dirs);
    blocking(&node.pools.files, write).await
}

/// Where an archive is written before it gets its name. Blocks.
fn temporary(location: &Path) -> Result<PathBuf, Error> {
    let unfit = |why: &str| Error::Invalid(format!("location {}: {why}", location.display()));
    let (Some(dir), Some(name)) = (location.parent(), location.file_name()) else {
        return Err(unfit("names no file"));
    };
    if !dir.is_dir() {
        return Err(unfit("its directory is not there"));
    }
    if location.is_dir() {
        return Err(unfit("is a directory"));
    }
    let random = ContainerId::random();
    let short = random.as_str().get(..12).unwrap_or_default();
    Ok(dir.join(format!(".{}.{short}", name.to_string_lossy())))
}

impl Checkpoint {
    /// A call of the runtime about the container, which has what is left of the time.
    fn program(&self, arguments: &[&str], variables: &[(&str, &Path)]) -> Result<Program, Error> {
        let handler = &self.handler;
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Error::TimedOut("time for the checkpoint is up".to_owned()));
        }
        let mut program = Program::new(&handler.config.path, left)
            .args(handler.global_arguments())
            .args(arguments)
            .arg(self.container.id.as_str());
        program.output_limit = WORDS;
        for line in monitors::environment() {
            if let Some((name, value)) = line.split_once('=') {
                program = program.env(name, value);
            }
        }
        for (name, value) in variables {
            program = program.env(name, value);
        }
        Ok(program)
    }
}

fn call(program: &Program, doing: &'static str) -> Result<(), Error> {
    match spawn::run(program) {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let words = String::from_utf8_lossy(&output.stderr);
            let words: Vec<_> = words.lines().map(str::trim).collect();
            let text = format!("{} ({})", words.join("; "), output.status);
            Err(Error::Runtime { doing, text })
        }
        Err(spawn::Error::TimedOut { after, .. }) => Err(Error::TimedOut(format!(
            "{doing}: runtime timed out after {after:?}"
        ))),
        Err(error) => Err(Error::Runtime {
            doing,
            text: chain(&error),
        }),
    }
}

async fn freeze(checkpoint: &Checkpoint) -> Result<(), Error> {
    let program = checkpoint.program(&["pause"], &[])?;
    let pause = move || call(&program, "container pause failed");
    blocking(&checkpoint.node.pools.helpers, pause).await
}

fn subject_container(node: &Node, subject: &Subject) -> Option<Arc<Container>> {
    let id = subject.container.as_ref()?;
    node.table.load().container(id.as_str()).ok()
}

fn undo_freeze<'a>(node: &'a Node, subject: &'a Subject) -> Doing<'a> {
    Box::pin(async move {
        match subject_container(node, subject) {
            Some(container) => cgroups::thaw(node, &container).await,
            None => Ok(()),
        }
    })
}

async fn dump(checkpoint: &Checkpoint) -> Result<(), Error> {
    let work = checkpoint.work.clone();
    let init = checkpoint.container.phase.init().map_or(0, |init| init.pid);
    let stdio = monitors::dir(&checkpoint.node, &checkpoint.container.pod)
        .join("containers")
        .join(checkpoint.container.id.as_str());
    let (images, criu) = (images_dir(&work), work.join("criu.conf"));
    let id = checkpoint.container.id.clone();
    let arguments = [
        "checkpoint",
        "--image-path",
        &images.to_string_lossy(),
        "--work-path",
        &work.to_string_lossy(),
        "--leave-running",
    ];
    let program = checkpoint.program(&arguments, &[(checkpoint::CONFIG_VARIABLE, &criu)])?;
    let dump = move || {
        checkpoint::make_work_dir(&work)?;
        let keys = keys(&stdio, init)?;
        let external = keys.iter().flatten().map(|key| format!("external {key}\n"));
        let lines: String = external.chain(own_cgroups(&id, init)).collect();
        fs::write(&criu, lines).map_err(Error::io("write", criu))?;
        call(&program, "container checkpoint failed")
            .map_err(|error| checkpoint::with_crius_words(error, &work.join("dump.log")))?;
        connect(&images_dir(&work), &keys)
    };
    blocking(&checkpoint.node.pools.helpers, dump).await
}

/// Lines for criu that name the hierarchies in which the container has a cgroup of its own. Of one
/// that it shares (version 2 beside version 1) criu would keep the tree, everybody's cgroups, and make
/// them again at the restore. None on version 2 alone: there it has one.
fn own_cgroups(id: &ContainerId, init: i32) -> Vec<String> {
    let of_init = sys::pidfd::of_number(init).and_then(|pid| sys::cgroup::of_process(pid).ok());
    let own = of_init.unwrap_or_default().named(id.as_str());
    let line = |controllers| format!("cgroup-dump-controller {controllers}\n");
    own.v1_controllers().map(line).collect()
}

fn undo_dump<'a>(node: &'a Node, subject: &'a Subject) -> Doing<'a> {
    Box::pin(async move {
        let Some(id) = &subject.container else {
            return Ok(());
        };
        let Some(dirs) = node.dirs(id.as_str()).await? else {
            return Ok(());
        };
        let dir = work_dir(&dirs.persistent);
        blocking(&node.pools.files, move || checkpoint::remove_dir(&dir)).await
    })
}

/// What criu is told of a container's stdio: a file's mount and number, in our view and in the one
/// in which the container got it.
fn keys(dir: &Path, init: i32) -> Result<[Vec<String>; 3], Error> {
    let mut keys = [const { BTreeSet::new() }; 3];
    for (name, keys) in ["stdin", "stdout", "stderr"].iter().zip(&mut keys) {
        let path = dir.join(name);
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fifo = match rustix::fs::open(&path, flags, Mode::empty()) {
            Err(rustix::io::Errno::NOENT) => continue,
            fifo => fifo.map_err(|error| Error::io("open", &path)(error.into()))?,
        };
        let stat =
            rustix::fs::fstat(&fifo).map_err(|error| Error::io("stat", &path)(error.into()))?;
        let mut add = |process: &str, number: &str| {
            if let Some(mount) = mount_of(process, number) {
                keys.insert(format!("file[{mount:x}:{:x}]", stat.st_ino));
            }
        };
        add("self", &fifo.as_raw_fd().to_string());
        let init = init.to_string();
        let open = fs::read_dir(format!("/proc/{init}/fd"));
        for entry in open.into_iter().flatten().flatten() {
            let same = fs::metadata(entry.path())
                .is_ok_and(|about| about.ino() == stat.st_ino && about.dev() == stat.st_dev);
            if same {
                add(&init, &entry.file_name().to_string_lossy());
            }
        }
    }
    Ok(keys.map(|keys| keys.into_iter().collect()))
}

/// The mount that a descriptor was opened on (proc_pid_fdinfo(5)).
fn mount_of(process: &str, number: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/fdinfo/{number}")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("mnt_id:"))?;
    line.trim().parse().ok()
}

/// Makes pipes of the container's stdio in criu's images.
fn connect(images: &Path, keys: &[Vec<String>; 3]) -> Result<(), Error> {
    let bad = |wrong: ::runtime::checkpoint::BadImage| Error::Internal(wrong.to_string());
    let path = images.join("files.img");
    let (files, pipes) = connect_pipes(&read(&path)?, keys).map_err(bad)?;
    fs::write(&path, files).map_err(Error::io("write", &path))?;
    for entry in fs::read_dir(images).map_err(Error::io("list", images))? {
        let path = entry.map_err(Error::io("list", images))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("fdinfo-") && name.ends_with(".img") {
            let table = descriptors(&read(&path)?, &pipes).map_err(bad)?;
            fs::write(&path, table).map_err(Error::io("write", &path))?;
        }
    }
    let path = images.join("descriptors.json");
    fs::write(&path, pipes.json()).map_err(Error::io("write", path))
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(Error::io("open", path))?;
    let read = file.take(IMAGE_BYTES).read_to_end(&mut bytes);
    read.map_err(Error::io("read", path))?;
    Ok(bytes)
}

async fn pack(checkpoint: &Checkpoint) -> Result<(), Error> {
    let node = Arc::clone(&checkpoint.node);
    let (container, dirs) = (Arc::clone(&checkpoint.container), checkpoint.dirs.clone());
    let (work, to) = (checkpoint.work.clone(), checkpoint.temporary.clone());
    let (handler, deadline) = (checkpoint.handler.clone(), checkpoint.deadline);
    let pack = move || {
        checkpoint::pack(&Pack {
            store: &node.store,
            container: &container,
            handler: &handler.config.name,
            dirs: &dirs,
            work: &work,
            to: &to,
            deadline,
        })
    };
    blocking(&checkpoint.node.pools.storage, pack).await
}

fn undo_pack<'a>(node: &'a Node, subject: &'a Subject) -> Doing<'a> {
    Box::pin(async move {
        let Some(path) = subject.archive.clone() else {
            return Ok(());
        };
        let remove = move || match fs::remove_file(&path) {
            Err(missing) if missing.kind() == std::io::ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(Error::io("remove", path)),
        };
        blocking(&node.pools.files, remove).await
    })
}

async fn publish(checkpoint: &Checkpoint) -> Result<(), Error> {
    let (from, to) = (checkpoint.temporary.clone(), checkpoint.location.clone());
    let rename = move || sys::durable::rename(&from, &to).map_err(Error::io("rename", from));
    blocking(&checkpoint.node.pools.files, rename).await
}
