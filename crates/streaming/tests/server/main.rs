//! The server without pods: what of it needs no container.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod idle;
mod tls;

use std::sync::Arc;

use crioxide_streaming as streaming;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use streaming::{
    Attach, Backend, Exec, Options, Process, Promises, Refusal, Server, Session, Wanted,
};
use tokio::net::TcpStream;

/// Processes that say nothing and never end.
#[derive(Debug)]
struct Silence;

impl Backend for Silence {
    fn exec(&self, _: Exec) -> BoxFuture<'static, Result<Process, Refusal>> {
        let process = Process {
            stdin: None,
            stdout: None,
            stderr: None,
            resize: None,
            ended: std::future::pending().boxed(),
            attached: false,
        };
        async { Ok(process) }.boxed()
    }

    fn attach(&self, _: Attach) -> BoxFuture<'static, Result<Process, Refusal>> {
        async { Err("nothing".to_owned()) }.boxed()
    }

    fn connect(&self, _: &str, _: u16) -> BoxFuture<'static, Result<TcpStream, Refusal>> {
        async { Err("nothing".to_owned()) }.boxed()
    }
}

/// Serves until the test ends.
async fn serve(options: Options) -> Promises {
    let server = Server::bind(options).await.unwrap();
    let promises = server.promises();
    tokio::spawn(server.serve(Arc::new(Silence)));
    promises
}

/// Host with port, and path, of a process that is promised.
fn promise(promises: &Promises) -> (String, String) {
    let wanted = Wanted {
        stdin: true,
        stdout: false,
        stderr: false,
        tty: false,
    };
    let (container, command) = ("c".to_owned(), vec!["x".to_owned()]);
    let exec = Exec {
        container,
        command,
        wanted,
    };
    let url = promises.promise(Session::Exec(exec)).unwrap();
    let rest = url.split_once("://").unwrap().1;
    let (host, path) = rest.split_at(rest.find('/').unwrap());
    (host.to_owned(), path.to_owned())
}
