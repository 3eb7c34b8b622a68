//! Coming up: alone in the directory, deaf to signals, parent of orphans, then ready.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::process::Pid;
use sys::seqpacket::{self, Kind};

use crate::limits;
use crate::options::Options;
use crate::server::{Parts, Server};

/// Signals that would end us, of which none is meant for us: at a shutdown the containers end
/// first.
const IGNORED: [i32; 8] = [1, 2, 3, 10, 12, 13, 14, 15];
const SIGCHLD: i32 = 17;

/// Comes up and runs until it is told to quit.
pub(crate) fn run(options: Options) -> io::Result<()> {
    IGNORED.into_iter().try_for_each(sys::signal::ignore)?;
    // Fails only if we lead a session already, as the daemon has it.
    let _leader = rustix::process::setsid();
    let oom_score_adj = protect();
    sys::reap::become_subreaper()?;
    let children = sys::signal::descriptor(SIGCHLD)?;
    let lock = lock(&options.dir)?;
    let listener = seqpacket::listen(&options.dir.join("monitor.sock"), Kind::Packets)?;
    let ready = options.ready_fd;
    let server = Server::new(Parts {
        options,
        oom_score_adj,
        listener,
        children,
        lock,
    })?;
    if let Some(number) = ready {
        say_ready(number)?;
    }
    server.run();
    Ok(())
}

/// Takes the directory. A predecessor that is just dying is waited for; a living one is not.
fn lock(dir: &Path) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let path = dir.join("monitor.lock");
    let mut file = File::from(rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR)?);
    if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let mut holder = String::new();
        file.read_to_string(&mut holder)?;
        wait_for(&holder)?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            io::Error::other(format!(
                "a monitor (pid {}) has {}",
                holder.trim(),
                dir.display()
            ))
        })?;
    }
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())?;
    Ok(file)
}

fn wait_for(holder: &str) -> io::Result<()> {
    use std::os::fd::AsFd;
    let pid = holder.trim().parse().ok().and_then(Pid::from_raw);
    if let Some(pidfd) = pid.and_then(|pid| sys::pidfd::open(pid).ok()) {
        sys::pidfd::wait_ended(pidfd.as_fd(), Some(limits::PREDECESSOR))?;
    }
    Ok(())
}

/// Asks the kernel not to kill us for memory, as far as it lets us, and returns the score that we
/// were started with: containers must not inherit ours.
fn protect() -> i32 {
    const FILE: &str = "/proc/self/oom_score_adj";
    let inherited = fs::read_to_string(FILE)
        .ok()
        .and_then(|text| text.trim().parse().ok());
    for wanted in ["-1000", "0"] {
        if fs::write(FILE, wanted).is_ok() {
            break;
        }
    }
    inherited.filter(|score| *score > 0).unwrap_or(0)
}

fn say_ready(number: i32) -> io::Result<()> {
    let pipe: OwnedFd = sys::spawn::inherited(number)?;
    rustix::io::write(pipe, b"1")?;
    Ok(())
}
