//! Makes namespaces for a pod and pins them, with the command line of CRI-O's helper of that name.
//!
//! A child makes them, since a user namespace's maps have to be written from outside, and since
//! `/proc/PID/ns` of the child is what is pinned. It stays until the pins are there. With a user
//! namespace, the others are made inside it, so that they belong to it. If anything fails, nothing
//! is left.
//!
//! Single-threaded, static, looks no name up; knows nothing of pods.

mod options;
mod sysctl;

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use options::{Asked, Options};
use rustix::process::Pid;
use sys::namespace::{self, Kind};

fn main() -> ExitCode {
    let outcome = match options::parse(std::env::args_os().skip(1)) {
        Ok(Asked::Pin(options)) => run(&options).map_err(|err| err.to_string()),
        Ok(Asked::Help) => say(options::USAGE),
        Ok(Asked::Version) => say(&format!("pinns {}\n", env!("CARGO_PKG_VERSION"))),
        Err(text) => Err(text),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            // Nowhere else to say it.
            let _unheard = writeln!(io::stderr(), "pinns: {text}");
            ExitCode::FAILURE
        }
    }
}

fn say(text: &str) -> Result<(), String> {
    io::stdout()
        .write_all(text.as_bytes())
        .map_err(|err| err.to_string())
}

/// One direction of talk: a byte says "go on", the end of the pipe says "the other is gone".
struct Gate {
    read: OwnedFd,
    write: OwnedFd,
}

impl Gate {
    fn new() -> io::Result<Self> {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        Ok(Self { read, write })
    }

    fn open(write: OwnedFd) -> io::Result<()> {
        std::fs::File::from(write).write_all(b"1")
    }

    fn wait(read: &OwnedFd, what: &str) -> io::Result<()> {
        let mut byte = [0];
        let mut read = std::fs::File::from(read.try_clone()?);
        read.read_exact(&mut byte)
            .map_err(|_| io::Error::other(what.to_owned()))
    }
}

fn run(options: &Options) -> io::Result<()> {
    let (unshared, mapped, made, pinned) = (Gate::new()?, Gate::new()?, Gate::new()?, Gate::new()?);
    let has_user = options.new.contains(&Kind::User);
    // After the fork, each side closes the ends of the other: that is how it learns of its end.
    let (child_ends, parent_ends) = (
        (unshared.write, mapped.read, made.write, pinned.read),
        (unshared.read, mapped.write, made.read, pinned.write),
    );
    let mut child_ends = Some(child_ends);
    let mut parent_ends = Some(parent_ends);
    // The closures run in two processes: each takes its own ends and closes the others.
    let ends = std::cell::RefCell::new((&mut child_ends, &mut parent_ends));
    namespace::in_child(
        || {
            let mut ends = ends.borrow_mut();
            drop(ends.1.take());
            let Some((unshared, mapped, made, pinned)) = ends.0.take() else {
                return Ok(());
            };
            if has_user {
                namespace::unshare(&[Kind::User]).map_err(at("make user namespace"))?;
                Gate::open(unshared)?;
                Gate::wait(&mapped, "the mappings were not written")?;
                namespace::become_root().map_err(at("become root of the user namespace"))?;
            }
            make(options)?;
            Gate::open(made)?;
            Gate::wait(&pinned, "the pins were not made")
        },
        |child| {
            let mut ends = ends.borrow_mut();
            drop(ends.0.take());
            let Some((unshared, mapped, made, pinned)) = ends.1.take() else {
                return Ok(());
            };
            if has_user {
                Gate::wait(&unshared, "no user namespace")?;
                namespace::map_ids(child, &options.users, &options.groups)
                    .map_err(at("write mappings"))?;
                Gate::open(mapped)?;
            }
            Gate::wait(&made, "no namespaces")?;
            pin(options, child)?;
            Gate::open(pinned)
        },
    )
}

/// In the child: the other namespaces, and what is set in them.
fn make(options: &Options) -> io::Result<()> {
    let others: Vec<Kind> = options
        .new
        .iter()
        .copied()
        .filter(|kind| *kind != Kind::User)
        .collect();
    namespace::unshare(&others).map_err(at("make namespaces"))?;
    if others.contains(&Kind::Mount) {
        namespace::make_root_slave().map_err(at("separate mounts"))?;
    }
    if let Some(name) = &options.hostname {
        namespace::set_hostname(name).map_err(at("set host name"))?;
    }
    if options.loopback {
        namespace::loopback_up().map_err(at("set lo up"))?;
    }
    for sysctl in &options.sysctls {
        sysctl
            .set()
            .map_err(|err| at(&format!("set {}", sysctl.key()))(err))?;
    }
    Ok(())
}

/// In the parent: all pins, or none.
fn pin(options: &Options, child: Pid) -> io::Result<()> {
    let mut done: Vec<PathBuf> = Vec::new();
    for (kind, path) in options.pins() {
        if let Err(err) = pin_one(kind, child, &path) {
            for pin in done {
                // The first failure is the one to tell.
                let _left = namespace::unpin(&pin);
            }
            return Err(at(&format!("pin {}", path.display()))(err));
        }
        done.push(path);
    }
    Ok(())
}

fn pin_one(kind: Kind, child: Pid, path: &Path) -> io::Result<()> {
    let namespace = kind.of(child);
    let pinned = namespace::pin(&namespace, path);
    let shared =
        |err: &io::Error| err.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error());
    match (pinned, path.parent()) {
        // A mount namespace can't be pinned on a mount that others would get a copy of.
        (Err(err), Some(dir)) if kind == Kind::Mount && shared(&err) => {
            namespace::make_private_mount(dir)?;
            namespace::pin(&namespace, path)
        }
        (pinned, _) => pinned,
    }
}

fn at(doing: &str) -> impl FnOnce(io::Error) -> io::Error + '_ {
    move |err| io::Error::other(format!("{doing}: {err}"))
}
