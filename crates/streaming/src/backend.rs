//! What is streamed to and from: processes and sockets that somebody else makes.

use std::fmt;

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// Where a session's bytes go.
pub type Input = Box<dyn AsyncWrite + Send + Unpin>;
/// Where a session's bytes come from.
pub type Output = Box<dyn AsyncRead + Send + Unpin>;
/// Sets the size of a terminal.
pub type Resize = Box<dyn Fn(Size) -> BoxFuture<'static, ()> + Send + Sync>;
/// Why something could not be done, for the client to read.
pub type Refusal = String;

/// Makes what sessions need. It was checked when the session was promised; it is checked again now.
pub trait Backend: Send + Sync + fmt::Debug + 'static {
    /// Starts a process in a container.
    fn exec(&self, exec: Exec) -> BoxFuture<'static, Result<Process, Refusal>>;
    /// Attaches to a container's first process.
    fn attach(&self, attach: Attach) -> BoxFuture<'static, Result<Process, Refusal>>;
    /// Connects to a port inside a pod.
    fn connect(&self, pod: &str, port: u16) -> BoxFuture<'static, Result<TcpStream, Refusal>>;
}

/// Which streams a session has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Whether the client sends input.
    pub stdin: bool,
    /// Whether it gets output.
    pub stdout: bool,
    /// Whether it gets standard error; never with a terminal.
    pub stderr: bool,
    /// Whether there is a terminal, whose size the client may set.
    pub tty: bool,
}

/// A process to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exec {
    /// The container.
    pub container: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Its streams.
    pub wanted: Wanted,
}

/// A container to attach to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attach {
    /// The container.
    pub container: String,
    /// Its streams.
    pub wanted: Wanted,
}

/// Ports to forward.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    /// The pod.
    pub pod: String,
    /// The ports, for a client that names none itself.
    pub ports: Vec<u16>,
}

/// A terminal's size, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Lines.
    pub rows: u16,
    /// Characters of a line.
    pub columns: u16,
}

/// A process and its streams: those that were wanted. What is dropped is closed.
pub struct Process {
    /// Its input; dropped at the input's end.
    pub stdin: Option<Input>,
    /// Its output; with a terminal, all of it.
    pub stdout: Option<Output>,
    /// Its standard error.
    pub stderr: Option<Output>,
    /// Its terminal's size.
    pub resize: Option<Resize>,
    /// Its end.
    pub ended: BoxFuture<'static, End>,
    /// Whether the session ends with the output: the process was there before.
    pub attached: bool,
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// With an exit code; 128 + the signal where one ended it.
    Exited(i32),
    /// Nobody knows.
    Unknown(Refusal),
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process")
            .field("stdin", &self.stdin.is_some())
            .field("stdout", &self.stdout.is_some())
            .field("stderr", &self.stderr.is_some())
            .field("resize", &self.resize.is_some())
            .field("attached", &self.attached)
            .finish_non_exhaustive()
    }
}
