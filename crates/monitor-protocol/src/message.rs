//! The messages themselves. What travels beside one as a descriptor is said at its variant.

use crate::Id;
use crate::codec::{DecodeError, decode, encode, wire_enum, wire_struct};

/// A packet from the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToMonitor {
    /// The request's number, chosen by the daemon; never 0.
    pub number: u32,
    /// What is asked for.
    pub request: Request,
}

/// A packet from the monitor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromMonitor {
    /// The answer to a request.
    Reply {
        /// The request's number.
        number: u32,
        /// Its answer.
        reply: Reply,
    },
    /// Something happened; sent to every connection that said Hello.
    Event {
        /// What happened.
        event: Event,
    },
}

/// What the daemon asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// First on a connection. Answer: [`Reply::Hello`].
    Hello {
        /// The daemon's version of the messages.
        version: u32,
    },
    /// Makes a container with its stdio, and its init. Answer: [`Reply::Created`].
    Create {
        /// Everything about it.
        create: Create,
    },
    /// Lets a container's init run its program. Answer: [`Reply::Done`].
    Start {
        /// The container.
        id: Id,
    },
    /// Sends a container's init a signal. Answer: [`Reply::Done`].
    Signal {
        /// The container.
        id: Id,
        /// The signal's number.
        signal: i32,
    },
    /// Sends SIGKILL to everything in a container's cgroup. Answer: [`Reply::Done`].
    KillAll {
        /// The container.
        id: Id,
    },
    /// Runs a process in a container. Beside it, without a terminal: its stdin, stdout and
    /// stderr. Answer: [`Reply::ExecStarted`], later [`Event::ExecExited`].
    Exec {
        /// Everything about it.
        exec: Exec,
    },
    /// Sends SIGKILL to an exec's process (and its group). Answer: [`Reply::Done`].
    KillExec {
        /// The container.
        id: Id,
        /// The exec.
        exec: Id,
    },
    /// Opens a container's log file anew, after its rotation. Answer: [`Reply::Done`].
    ReopenLog {
        /// The container.
        id: Id,
    },
    /// Sets the size of a container's terminal. Answer: [`Reply::Done`].
    Resize {
        /// The container.
        id: Id,
        /// Lines.
        rows: u16,
        /// Characters per line.
        columns: u16,
    },
    /// Copies a container's output to descriptors, from now on. Beside it, in this order where
    /// wanted: where stdout goes, where stderr goes (with a terminal all is stdout). Answer:
    /// [`Reply::Attached`]. They are closed at the end of the output, or when their reader
    /// stops reading.
    Attach {
        /// The container.
        id: Id,
        /// Whether stdin is wanted.
        stdin: bool,
        /// Whether a descriptor for stdout is there.
        stdout: bool,
        /// Whether a descriptor for stderr is there.
        stderr: bool,
    },
    /// Closes the monitor's writing end of a container's stdin. Answer: [`Reply::Done`].
    CloseStdin {
        /// The container.
        id: Id,
    },
    /// Removes what the runtime keeps of a container; fine if there is nothing. Answer:
    /// [`Reply::Done`].
    Delete {
        /// The container.
        id: Id,
        /// Kill it if it runs.
        force: bool,
    },
    /// Forgets a container that has exited, with its files in the monitor's directory; fine if
    /// it isn't known. Answer: [`Reply::Done`].
    Forget {
        /// The container.
        id: Id,
    },
    /// Asks for all containers. Answer: [`Reply::List`].
    List {},
    /// Takes over a container of a monitor that died. Beside it, in this order where there:
    /// pidfd of its init (opened before it exited), master of its terminal, writing end of its
    /// stdin. Answer: [`Reply::Adopted`].
    Adopt {
        /// Everything about it.
        adopt: Adopt,
    },
    /// Tells the status of a process that the daemon reaped as subreaper. Answer:
    /// [`Reply::Done`].
    OrphanReaped {
        /// The process.
        pid: u32,
        /// Its exit code, 0 where a signal ended it.
        code: i32,
        /// The signal that ended it, else 0.
        signal: i32,
    },
    /// Ends the monitor. Answer: [`Reply::Done`], or [`ErrorKind::WrongState`] while a container
    /// lives.
    Quit {},
    /// Makes a container with its stdio, and has the runtime restore its processes, which run at
    /// once. Answer: [`Reply::Created`]. Since version 2.
    Restore {
        /// Everything about it.
        create: Create,
        /// Where criu's images of its processes are.
        images: String,
        /// Where criu writes its log.
        work: String,
    },
    /// Before a container is made or taken over: its output goes to systemd's journal, too. Answer:
    /// [`Reply::Done`]. Since version 3.
    Journal {
        /// The container.
        id: Id,
        /// Its name there.
        name: String,
    },
    /// Before a container is made or taken over: the calls that its seccomp filter leaves to a listener
    /// are refused and counted ([`Event::Forbidden`]). Answer: [`Reply::Done`]. Since version 4.
    Notify {
        /// The container.
        id: Id,
        /// Where the runtime hands the listener over: the `listenerPath` of its `config.json`.
        socket: String,
    },
    /// Gives a listener of a container that was taken over. Beside it: the listener. Answer:
    /// [`Reply::Done`]. Since version 4.
    Listen {
        /// The container.
        id: Id,
    },
}

/// A container to make.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Create {
    /// Its id; `Default` has a placeholder.
    pub id: Id,
    /// The directory of its `config.json`.
    pub bundle: String,
    /// The runtime's file.
    pub runtime: String,
    /// The runtime's options before the sub-command (`--root` and the like).
    pub runtime_args: Vec<String>,
    /// Further options of `create`.
    pub create_args: Vec<String>,
    /// The runtime's whole environment, `NAME=value`.
    pub env: Vec<String>,
    /// Its log; no log if empty.
    pub log_path: String,
    /// Beyond this many bytes the log starts again; never if 0.
    pub log_size_max: u64,
    /// Whether it has a terminal (as its `config.json` says).
    pub tty: bool,
    /// Whether its stdin is open (else `/dev/null`).
    pub stdin: bool,
    /// Whether its stdin can be closed: at the end of the first attach.
    pub stdin_once: bool,
    /// Where the exit record is copied to when no daemon is there; nowhere if empty.
    pub persist_dir: String,
    /// Where the runtime writes the pid of its init.
    pub pid_file: String,
    /// What `create` and `start` may take.
    pub timeout_ms: u32,
    /// Whether the monitor runs `delete` as soon as the container has exited.
    pub auto_delete: bool,
}

/// A process to run in a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exec {
    /// The container.
    pub id: Id,
    /// Its own id, unique in the container.
    pub exec: Id,
    /// The file with the process of the runtime spec.
    pub process: String,
    /// Where the runtime writes its pid.
    pub pid_file: String,
    /// Further options of `exec`.
    pub exec_args: Vec<String>,
    /// Whether it has a terminal (as the process says).
    pub tty: bool,
    /// What the runtime may take to start it.
    pub timeout_ms: u32,
}

/// A container to take over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adopt {
    /// What it was made from.
    pub create: Create,
    /// Its init.
    pub pid: u32,
    /// Its init's start time ([`Reply::Created`]).
    pub start_time: u64,
    /// Whether it was started.
    pub started: bool,
    /// Whether a pidfd of its init is there.
    pub pidfd: bool,
    /// Whether the master of its terminal is there.
    pub terminal: bool,
    /// Whether a writing end of its stdin is there.
    pub stdin: bool,
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It is done.
    Done {},
    /// It was not done.
    Failed {
        /// What kind of failure.
        kind: ErrorKind,
        /// What happened; the runtime's own words where it was the runtime.
        text: String,
    },
    /// The monitor introduces itself.
    Hello {
        /// Its version of the messages.
        version: u32,
        /// Its process.
        pid: u32,
        /// Its pod.
        pod: Id,
    },
    /// A container is there. Beside it, in this order where there: pidfd of its init, master of
    /// its terminal, writing end of its stdin.
    Created {
        /// Its init.
        pid: u32,
        /// When its init started, in ticks since boot: with the pid, its identity.
        start_time: u64,
        /// Whether the master of its terminal follows.
        terminal: bool,
        /// Whether a writing end of its stdin follows.
        stdin: bool,
    },
    /// A process runs in a container. Beside it: its pidfd, then the master of its terminal.
    ExecStarted {
        /// The process.
        pid: u32,
        /// Whether the master of its terminal follows.
        terminal: bool,
    },
    /// The output is being copied. Beside it, where wanted and open: the writing end of stdin, or
    /// the master of the terminal.
    Attached {
        /// Whether a descriptor follows.
        stdin: bool,
    },
    /// All containers.
    List {
        /// One of each.
        containers: Vec<ContainerInfo>,
    },
    /// A container was taken over.
    Adopted {
        /// What it is now.
        info: ContainerInfo,
    },
}

/// What kind of failure a request met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// There is no such container or exec.
    NotFound {},
    /// There is one already.
    Exists {},
    /// Not in this state.
    WrongState {},
    /// The request makes no sense.
    BadRequest {},
    /// The runtime refused or failed.
    Runtime {},
    /// It took longer than allowed.
    TimedOut {},
    /// Something else failed.
    Io {},
}

/// What the monitor tells unasked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A container's init has ended; its exit record is written.
    Exited {
        /// How.
        exit: Exit,
    },
    /// An exec's process has ended.
    ExecExited {
        /// The container.
        id: Id,
        /// The exec.
        exec: Id,
        /// Its exit code, 128 + signal where one ended it.
        code: i32,
        /// The signal that ended it, else 0.
        signal: i32,
    },
    /// A seccomp filter in a container, that of its init or of an exec, has a listener. Beside it: the
    /// listener, which a successor of the monitor needs ([`Request::Listen`]). Told again to who says
    /// Hello. Since version 4.
    Listening {
        /// The container.
        id: Id,
    },
    /// Processes of a container made a forbidden call. Told again to who says Hello. Since version 4.
    Forbidden {
        /// The container.
        id: Id,
        /// Whose numbers the call's is of, an `AUDIT_ARCH_*` of `linux/audit.h`.
        arch: u32,
        /// The system call.
        number: i32,
        /// How often it was made since the monitor has the container.
        count: u64,
    },
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// The container.
    pub id: Id,
    /// Its init; 0 if there never was one.
    pub pid: u32,
    /// Exit code, 128 + signal where one ended it.
    pub code: i32,
    /// The signal that ended it, else 0.
    pub signal: i32,
    /// Whether the kernel killed one of its processes for memory.
    pub oom_killed: bool,
    /// When, in nanoseconds since 1970.
    pub finished_ns: u64,
    /// Anything special about it, such as `monitor lost`.
    pub reason: String,
}

/// A container, as [`Reply::List`] tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerInfo {
    /// Its id.
    pub id: Id,
    /// What it does.
    pub state: State,
    /// Its init, 0 while there is none.
    pub pid: u32,
    /// When its init started.
    pub start_time: u64,
    /// Execs that run in it.
    pub execs: Vec<Id>,
}

/// What a container does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// The runtime makes it.
    Creating {},
    /// It waits for its start.
    Created {},
    /// It runs.
    Running {},
    /// Its init has ended; output and record aren't finished yet.
    Exiting {},
    /// It has exited.
    Exited {
        /// How.
        exit: Exit,
    },
}

impl Default for Id {
    /// A placeholder, so that [`Create`] can be filled by `..Default::default()`.
    fn default() -> Self {
        Self::try_from("none").expect("a literal id")
    }
}

impl ToMonitor {
    /// Reads a packet.
    ///
    /// # Errors
    /// It is none of ours, or of a later version.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        decode(bytes)
    }

    /// Writes a packet.
    ///
    /// # Errors
    /// [`DecodeError::TooLong`] only.
    pub fn encode(&self) -> Result<Vec<u8>, DecodeError> {
        encode(self)
    }
}

impl FromMonitor {
    /// Reads a packet.
    ///
    /// # Errors
    /// It is none of ours, or of a later version.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        decode(bytes)
    }

    /// Writes a packet.
    ///
    /// # Errors
    /// [`DecodeError::TooLong`] only.
    pub fn encode(&self) -> Result<Vec<u8>, DecodeError> {
        encode(self)
    }
}

wire_struct!(ToMonitor { number, request });
wire_struct!(Create {
    id,
    bundle,
    runtime,
    runtime_args,
    create_args,
    env,
    log_path,
    log_size_max,
    tty,
    stdin,
    stdin_once,
    persist_dir,
    pid_file,
    timeout_ms,
    auto_delete,
});
wire_struct!(Exec {
    id,
    exec,
    process,
    pid_file,
    exec_args,
    tty,
    timeout_ms
});
wire_struct!(Adopt {
    create,
    pid,
    start_time,
    started,
    pidfd,
    terminal,
    stdin
});
wire_struct!(Exit {
    id,
    pid,
    code,
    signal,
    oom_killed,
    finished_ns,
    reason
});
wire_struct!(ContainerInfo {
    id,
    state,
    pid,
    start_time,
    execs
});
wire_enum!(FromMonitor {
    1 => Reply { number, reply },
    2 => Event { event },
});
wire_enum!(Request {
    1 => Hello { version },
    2 => Create { create },
    3 => Start { id },
    4 => Signal { id, signal },
    5 => KillAll { id },
    6 => Exec { exec },
    7 => KillExec { id, exec },
    8 => ReopenLog { id },
    9 => Resize { id, rows, columns },
    10 => Attach { id, stdin, stdout, stderr },
    11 => CloseStdin { id },
    12 => Delete { id, force },
    13 => Forget { id },
    14 => List {},
    15 => Adopt { adopt },
    16 => OrphanReaped { pid, code, signal },
    17 => Quit {},
    18 => Restore { create, images, work },
    19 => Journal { id, name },
    20 => Notify { id, socket },
    21 => Listen { id },
});
wire_enum!(Reply {
    1 => Done {},
    2 => Failed { kind, text },
    3 => Hello { version, pid, pod },
    4 => Created { pid, start_time, terminal, stdin },
    5 => ExecStarted { pid, terminal },
    6 => Attached { stdin },
    7 => List { containers },
    8 => Adopted { info },
});
wire_enum!(ErrorKind {
    1 => NotFound {},
    2 => Exists {},
    3 => WrongState {},
    4 => BadRequest {},
    5 => Runtime {},
    6 => TimedOut {},
    7 => Io {},
});
wire_enum!(Event {
    1 => Exited { exit },
    2 => ExecExited { id, exec, code, signal },
    3 => Listening { id },
    4 => Forbidden { id, arch, number, count },
});
wire_enum!(State {
    1 => Creating {},
    2 => Created {},
    3 => Running {},
    4 => Exiting {},
    5 => Exited { exit },
});

#[cfg(test)]
mod tests;
