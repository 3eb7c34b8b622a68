//! A pod with a monitor of its own, in a private directory; cleaned up however the test ends.

use std::fs;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use monitor_client::{Create, Created, Event, Events, Exec, Exit, Id, Monitor, SpawnOptions};
use rustix::process::{Pid, Signal};
use serde_json::{Value, json};
use sys::cgroup::Cgroup;
use sys::pool::Pool;
use tempfile::TempDir;

/// What anything may take here; only a failing test takes as long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

static POD: AtomicU32 = AtomicU32::new(0);

pub(crate) struct Pod {
    pub(crate) name: String,
    pub(crate) guard: Guard,
    pub(crate) monitor: Monitor,
    pub(crate) events: Events,
    pool: Pool,
    seen: Vec<Event>,
}

/// Cleans up what a pod leaves, however the test ends.
pub(crate) struct Guard {
    name: String,
    dir: TempDir,
}

pub(crate) fn id(text: &str) -> Id {
    Id::try_from(text).unwrap()
}

pub(crate) fn runtime() -> String {
    std::env::var("CRIOXIDE_TEST_RUNTIME").unwrap_or_else(|_| "/usr/sbin/runc".into())
}

fn program() -> PathBuf {
    std::env::var_os("CRIOXIDE_TEST_MONITOR").map_or_else(
        || env!("CARGO_BIN_EXE_crioxide-monitor").into(),
        PathBuf::from,
    )
}

pub(crate) async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(value) => value,
        Err(_) => panic!("{what} takes longer than {PATIENCE:?}"),
    }
}

impl Pod {
    pub(crate) async fn start() -> Self {
        Self::start_in(tempfile::tempdir_in("/dev/shm").unwrap()).await
    }

    pub(crate) async fn start_in(dir: TempDir) -> Self {
        sys::reap::become_subreaper().unwrap();
        let name = format!("t{}x{}", process::id(), POD.fetch_add(1, Ordering::Relaxed));
        let pool = Pool::new("spawn", 2);
        let options = options(&name, dir.path());
        let (monitor, events) = within("monitor", Monitor::spawn(options, &pool))
            .await
            .unwrap();
        let guard = Guard {
            name: name.clone(),
            dir,
        };
        Self {
            name,
            guard,
            monitor,
            events,
            pool,
            seen: Vec::new(),
        }
    }

    /// Closes the connection; the monitor lives on until the guard is dropped.
    pub(crate) fn disconnect(self) -> Guard {
        self.guard
    }

    /// A successor in the same directory; nothing is adopted yet.
    pub(crate) async fn restart_monitor(&mut self) {
        let options = options(&self.name, self.guard.dir.path());
        let spawned = within("monitor", Monitor::spawn(options, &self.pool)).await;
        (self.monitor, self.events) = spawned.unwrap();
    }

    pub(crate) async fn kill_monitor(&mut self) {
        let pid = Pid::from_raw(self.monitor.pid().cast_signed()).unwrap();
        rustix::process::kill_process(pid, Signal::KILL).unwrap();
        loop {
            let event = within("loss", self.events.recv()).await.unwrap();
            if matches!(event, Event::Lost { .. }) {
                return;
            }
            self.seen.push(event);
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.guard.dir.path().join(name)
    }

    /// The request for a container that runs `script`; its bundle is written.
    pub(crate) fn container(&self, name: &str, script: &str) -> Create {
        self.container_with(name, script, |_| {})
    }

    pub(crate) fn container_with(
        &self,
        name: &str,
        script: &str,
        change: impl FnOnce(&mut Value),
    ) -> Create {
        let id = format!("{}-{name}", self.name);
        let bundle = self.path(&format!("bundles/{name}"));
        fs::create_dir_all(&bundle).unwrap();
        let mut config = config(&self.name, &id, script);
        change(&mut config);
        fs::write(bundle.join("config.json"), config.to_string()).unwrap();
        let text = |path: PathBuf| path.to_str().unwrap().to_owned();
        Create {
            id: self::id(&id),
            pid_file: text(bundle.join("pid")),
            persist_dir: text(bundle.clone()),
            bundle: text(bundle),
            runtime: runtime(),
            runtime_args: vec!["--root".into(), text(self.path("runtime"))],
            env: vec!["PATH=/usr/sbin:/usr/bin:/sbin:/bin".into()],
            log_path: text(self.log(name)),
            timeout_ms: 30_000,
            tty: config["process"]["terminal"] == true,
            ..Create::default()
        }
    }

    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.path(&format!("{name}.log"))
    }

    pub(crate) async fn create(&self, create: &Create) -> Created {
        within("create", self.monitor.create(create.clone(), None))
            .await
            .unwrap()
    }

    pub(crate) async fn run(&self, create: &Create) -> Created {
        let created = self.create(create).await;
        within("start", self.monitor.start(&create.id))
            .await
            .unwrap();
        created
    }

    pub(crate) async fn event(&mut self) -> Event {
        if !self.seen.is_empty() {
            return self.seen.remove(0);
        }
        within("event", self.events.recv())
            .await
            .expect("a monitor that lives")
    }

    pub(crate) async fn exit(&mut self, id: &Id) -> Exit {
        loop {
            if let Event::Exited(exit) = self.event().await
                && exit.id == *id
            {
                return exit;
            }
        }
    }

    /// The request for an exec of `script`; its process is written.
    pub(crate) fn exec(&self, container: &Id, name: &str, script: &str, tty: bool) -> Exec {
        let process = self.path(&format!("{name}.json"));
        fs::write(&process, self::process(script, tty).to_string()).unwrap();
        Exec {
            id: container.clone(),
            exec: id(name),
            process: process.to_str().unwrap().into(),
            pid_file: self.path(&format!("{name}.pid")).to_str().unwrap().into(),
            exec_args: vec![],
            tty,
            timeout_ms: 30_000,
        }
    }

    /// Ends the test: all containers are removed, nothing may be left.
    pub(crate) async fn finish(self) {
        for info in within("list", self.monitor.list()).await.unwrap() {
            within("delete", self.monitor.delete(&info.id, true))
                .await
                .unwrap();
        }
        let cgroup = Cgroup::at(&format!("/{}", self.name)).unwrap();
        let is_empty = || cgroup.processes().unwrap().is_empty();
        until("end of all processes", is_empty).await;
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // Whatever state the test left it in. The monitor's first: a runtime in it may still be making the other.
        for cgroup in ["-monitor", ""] {
            let cgroup = Cgroup::at(&format!("/{}{cgroup}", self.name)).unwrap();
            for pid in cgroup.kill().unwrap_or_default() {
                if let Ok(pidfd) = sys::pidfd::open(pid) {
                    use std::os::fd::AsFd;
                    let _late = sys::pidfd::wait_ended(pidfd.as_fd(), Some(PATIENCE));
                }
            }
            let removed = cgroup.remove_when_empty(PATIENCE);
            assert!(
                removed.is_ok() || std::thread::panicking(),
                "{}: {removed:?}",
                self.name
            );
        }
    }
}

fn options(name: &str, dir: &Path) -> SpawnOptions {
    SpawnOptions {
        program: program(),
        pod: id(name),
        dir: dir.join("run"),
        exits_dir: dir.join("exits"),
        cgroup: Some(format!("/{name}-monitor")),
        oom_score_adj: -1000,
        timeout: PATIENCE,
    }
}

pub(crate) fn process(script: &str, tty: bool) -> Value {
    let capabilities = ["CAP_SETUID", "CAP_SETGID", "CAP_KILL", "CAP_CHOWN"];
    json!({
        "terminal": tty,
        "user": { "uid": 0, "gid": 0 },
        "args": ["/bin/sh", "-c", script],
        "env": ["PATH=/bin", "TERM=xterm"],
        "cwd": "/",
        "capabilities": { "bounding": capabilities, "effective": capabilities, "permitted": capabilities },
        "noNewPrivileges": true,
    })
}

fn config(pod: &str, id: &str, script: &str) -> Value {
    let namespaces: Vec<Value> = ["pid", "ipc", "uts", "mount"]
        .iter()
        .map(|kind| json!({ "type": kind }))
        .collect();
    json!({
        "ociVersion": "1.0.2",
        "process": process(script, false),
        "root": { "path": rootfs(), "readonly": true },
        "hostname": "test",
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
              "options": ["nosuid", "mode=755", "size=65536k"] },
            { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
              "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"] },
            { "destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777"] },
        ],
        "linux": { "cgroupsPath": format!("/{pod}/crio-{id}"), "namespaces": namespaces },
    })
}

/// A root file system with Debian's busybox, made once and kept in cargo's directory for tests: a
/// static is never dropped, and would leave one behind in each run.
fn rootfs() -> &'static Path {
    static ROOTFS: OnceLock<PathBuf> = OnceLock::new();
    ROOTFS.get_or_init(|| {
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("monitor-rootfs");
        if kept.is_dir() {
            return kept;
        }
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let root = dir.path();
        fs::set_permissions(root, fs::Permissions::from_mode(0o755)).unwrap();
        for name in ["bin", "proc", "dev", "tmp", "etc", "sys"] {
            fs::create_dir(root.join(name)).unwrap();
        }
        fs::copy("/usr/bin/busybox", root.join("bin/busybox")).unwrap();
        let applets = [
            "sh", "cat", "sleep", "echo", "id", "true", "head", "tr", "stty", "kill", "od",
            "usleep", "seq", "yes", "dd", "printf",
        ];
        for applet in applets {
            symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
        let program = sys::spawn::Program::new("/usr/bin/ldd", PATIENCE)
            .arg("/usr/bin/busybox")
            .env("PATH", "/bin:/usr/bin");
        let libraries = String::from_utf8(sys::spawn::run(&program).unwrap().stdout).unwrap();
        for library in libraries
            .split_whitespace()
            .filter(|word| word.starts_with('/'))
        {
            let target = root.join(&library[1..]);
            fs::create_dir_all(target.parent().unwrap()).unwrap();
            fs::copy(library, target).unwrap();
        }
        // Another run may have made it meanwhile: then ours goes with `dir`.
        if rustix::fs::rename(root, &kept).is_ok() {
            let _kept = dir.keep();
        }
        kept
    })
}

pub(crate) fn pipe() -> (OwnedFd, OwnedFd) {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap()
}

/// Reads to the end, off the test's thread.
pub(crate) async fn read_all(fd: OwnedFd) -> String {
    let pool = Pool::new("read", 1);
    let read = pool.run(move || {
        use std::io::Read;
        let mut bytes = Vec::new();
        // A terminal ends with EIO.
        let _eio = fs::File::from(fd).read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    });
    within("read", read).await
}

/// A record of a log: stream, tag, text.
pub(crate) fn records(text: &str) -> Vec<(String, String, String)> {
    text.split_terminator('\n')
        .map(|line| {
            let mut fields = line.splitn(4, ' ');
            let time = fields.next().unwrap();
            assert!(time.len() == 30 && time.ends_with('Z'), "no time: {line:?}");
            let mut next = || {
                fields
                    .next()
                    .unwrap_or_else(|| panic!("no record: {line:?}"))
                    .to_owned()
            };
            (next(), next(), next())
        })
        .collect()
}

/// The lines of one stream, put together from their records.
pub(crate) fn lines(text: &str, stream: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for (_, tag, text) in records(text)
        .into_iter()
        .filter(|(name, ..)| name == stream)
    {
        lines.last_mut().unwrap().push_str(&text);
        if tag == "F" {
            lines.push(String::new());
        }
    }
    if lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    lines
}

/// Waits until something becomes true that no event tells.
pub(crate) async fn until(what: &str, mut is_true: impl FnMut() -> bool) {
    let wait = async {
        while !is_true() {
            let soon = tokio::time::Instant::now() + Duration::from_millis(3);
            tokio::time::sleep_until(soon).await;
        }
    };
    within(what, wait).await;
}

pub(crate) async fn wait_for_line(log: &Path, text: &str) {
    let has = || fs::read_to_string(log).is_ok_and(|log| log.contains(text));
    until(&format!("{text:?} in the log"), has).await;
}

pub(crate) async fn wait_for_file(path: &Path) {
    until(&format!("{}", path.display()), || path.is_file()).await;
}
