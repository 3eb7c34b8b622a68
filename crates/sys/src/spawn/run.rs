//! A program run to its end: input, output, time-out.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use super::{Child, Error, Output, Program, Session, Spec, spawn};

/// What is read at once.
const CHUNK: usize = 16 * 1024;

/// Runs a program to its end and returns what it wrote, whatever its exit code is. Blocks.
///
/// It leads a process group of its own, which is killed at the time-out; a descendant that left
/// the group and holds the pipes open doesn't make this wait any longer than the program itself.
///
/// # Errors
/// [`Error::Start`] if it can't be started, [`Error::TimedOut`].
pub fn run(program: &Program) -> Result<Output, Error> {
    let deadline = Instant::now().checked_add(program.timeout);
    let fail = |doing| {
        move |source| Error::Io {
            program: program.path.clone(),
            doing,
            source,
        }
    };
    let mut streams = Streams::default();
    let mut child = streams.start(program)?;
    let talked = streams.talk(&child, program, deadline);
    if !matches!(talked, Ok(true)) {
        child.kill_group();
    }
    let status = child.wait(None).map_err(fail("wait for"))?;
    let ended = talked.map_err(fail("talk to"))?;
    streams
        .finish(program.output_limit)
        .map_err(fail("read from"))?;
    let Streams {
        stdout,
        stderr,
        truncated,
        ..
    } = streams;
    match status {
        Some(status) if ended => Ok(Output {
            status,
            stdout,
            stderr,
            truncated,
        }),
        _ => Err(Error::TimedOut {
            program: program.path.clone(),
            after: program.timeout,
            stdout,
            stderr,
        }),
    }
}

/// Our ends of the pipes, and what came through them.
#[derive(Default)]
struct Streams {
    input: Option<OwnedFd>,
    written: usize,
    out: Option<OwnedFd>,
    err: Option<OwnedFd>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    truncated: bool,
}

impl Streams {
    fn start(&mut self, program: &Program) -> Result<Child, Error> {
        let pipes = || -> io::Result<_> {
            let (in_read, in_write) = pipe_with(PipeFlags::CLOEXEC)?;
            let (out_read, out_write) = pipe_with(PipeFlags::CLOEXEC)?;
            let (err_read, err_write) = pipe_with(PipeFlags::CLOEXEC)?;
            for ours in [&in_write, &out_read, &err_read] {
                rustix::fs::fcntl_setfl(ours, OFlags::NONBLOCK)?;
            }
            Ok((
                (in_read, in_write),
                (out_read, out_write),
                (err_read, err_write),
            ))
        };
        let ((in_read, in_write), (out_read, out_write), (err_read, err_write)) =
            pipes().map_err(|source| Error::Start {
                program: program.path.clone(),
                stage: "pipe2",
                source,
            })?;
        let mut spec = Spec::new(&program.path);
        spec.args.clone_from(&program.args);
        spec.env.clone_from(&program.env);
        spec.cwd = program.cwd.as_deref();
        spec.cgroup = program.cgroup.as_ref();
        spec.session = Session::Group;
        spec.fds = vec![(out_write.as_fd(), 1), (err_write.as_fd(), 2)];
        if !program.stdin.is_empty() {
            spec.fds.push((in_read.as_fd(), 0));
            self.input = Some(in_write);
        }
        spec.fds
            .extend(program.fds.iter().map(|(ours, its)| (ours.as_fd(), *its)));
        self.out = Some(out_read);
        self.err = Some(err_read);
        spawn(&spec)
    }

    /// Feeds and reads until the program has ended (true) or its time is up (false).
    fn talk(
        &mut self,
        child: &Child,
        program: &Program,
        deadline: Option<Instant>,
    ) -> io::Result<bool> {
        loop {
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(false);
            }
            let ready = self.wait(child.pidfd(), left)?;
            if ready.input {
                self.feed(&program.stdin);
            }
            if ready.out {
                let done = drain(
                    &self.out,
                    &mut self.stdout,
                    program.output_limit,
                    &mut self.truncated,
                    1,
                )?;
                if done {
                    self.out = None;
                }
            }
            if ready.err {
                let done = drain(
                    &self.err,
                    &mut self.stderr,
                    program.output_limit,
                    &mut self.truncated,
                    1,
                )?;
                if done {
                    self.err = None;
                }
            }
            if ready.ended {
                return Ok(true);
            }
        }
    }

    fn wait(&self, pidfd: BorrowedFd<'_>, left: Option<Duration>) -> io::Result<Ready> {
        let mut fds = vec![PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
        let input = add(&mut fds, self.input.as_ref(), PollFlags::OUT);
        let out = add(&mut fds, self.out.as_ref(), PollFlags::IN);
        let err = add(&mut fds, self.err.as_ref(), PollFlags::IN);
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(err) => return Err(err.into()),
        }
        let is_ready = |at: Option<usize>| {
            at.and_then(|at| fds.get(at))
                .is_some_and(|fd| !fd.revents().is_empty())
        };
        Ok(Ready {
            ended: is_ready(Some(0)),
            input: is_ready(input),
            out: is_ready(out),
            err: is_ready(err),
        })
    }

    fn feed(&mut self, bytes: &[u8]) {
        let rest = bytes.get(self.written..).unwrap_or_default();
        let Some(input) = &self.input else { return };
        match rustix::io::write(input, rest) {
            Ok(n) => self.written = self.written.saturating_add(n),
            Err(Errno::AGAIN | Errno::INTR) => return,
            // A program may end or close its input without having read it all.
            Err(_) => self.written = bytes.len(),
        }
        if self.written >= bytes.len() {
            self.input = None;
        }
    }

    /// What was still in the pipes when it ended: at most what a pipe holds.
    fn finish(&mut self, limit: usize) -> io::Result<()> {
        drain(&self.out, &mut self.stdout, limit, &mut self.truncated, 64)?;
        drain(&self.err, &mut self.stderr, limit, &mut self.truncated, 64)?;
        Ok(())
    }
}

struct Ready {
    ended: bool,
    input: bool,
    out: bool,
    err: bool,
}

/// Where in `fds` the descriptor went, if there is one.
fn add<'a>(fds: &mut Vec<PollFd<'a>>, fd: Option<&'a OwnedFd>, flags: PollFlags) -> Option<usize> {
    let fd = fd?;
    fds.push(PollFd::from_borrowed_fd(fd.as_fd(), flags));
    fds.len().checked_sub(1)
}

/// Reads up to `chunks` chunks; true at the end of the stream.
fn drain(
    fd: &Option<OwnedFd>,
    into: &mut Vec<u8>,
    limit: usize,
    truncated: &mut bool,
    chunks: usize,
) -> io::Result<bool> {
    let Some(fd) = fd else { return Ok(true) };
    let mut buffer = [0; CHUNK];
    for _ in 0..chunks {
        match rustix::io::read(fd, &mut buffer) {
            Ok(0) => return Ok(true),
            Ok(n) => {
                let room = limit.saturating_sub(into.len());
                *truncated |= n > room;
                into.extend_from_slice(buffer.get(..n.min(room)).unwrap_or_default());
            }
            Err(Errno::AGAIN | Errno::INTR) => return Ok(false),
            Err(err) => return Err(err.into()),
        }
    }
    Ok(false)
}
