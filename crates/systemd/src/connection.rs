//! Calls of `org.freedesktop.systemd1.Manager` (`org.freedesktop.systemd1(5)`).

use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::sync::Mutex;
use zbus::{Connection, MatchRule, Message, MessageStream, OwnedObjectPath, Variant};

use crate::Slice;

const SERVICE: &str = "org.freedesktop.systemd1";
const PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
/// How long a call, or a job, may take. Jobs of scopes end in milliseconds.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A result with this module's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why systemd did not do something.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It can't be reached.
    #[error("systemd is not reachable by D-Bus")]
    Unreachable(#[source] zbus::Error),
    /// It refused.
    #[error("systemd: {doing} {unit}")]
    Refused {
        /// What was asked for.
        doing: &'static str,
        /// Of which unit.
        unit: String,
        /// Its words.
        source: zbus::Error,
    },
    /// It took the job, which then did not end well.
    #[error("systemd: {doing} {unit}: {result}")]
    Job {
        /// What was asked for.
        doing: &'static str,
        /// Of which unit.
        unit: String,
        /// `canceled`, `timeout`, `failed`, …, or that nothing was heard of it.
        result: String,
    },
}

/// A scope to be started around a process.
#[derive(Clone, Debug)]
pub struct Scope<'a> {
    /// Its unit's name, with `.scope`.
    pub name: &'a str,
    /// For people.
    pub description: &'a str,
    /// Where it is.
    pub slice: &'a Slice,
    /// The process; its children come along.
    pub pid: u32,
}

/// The way to systemd. Shared by reference.
#[derive(Debug, Default)]
pub struct Systemd {
    connection: Mutex<Option<Connection>>,
}

impl Systemd {
    /// Makes it; connects with the first call.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether systemd is there and answers.
    ///
    /// # Errors
    /// [`Error::Unreachable`].
    pub async fn check(&self) -> Result<()> {
        self.connect().await.map(drop)
    }

    /// Starts a scope, and returns once the process is in it. One of that name that is there
    /// already, of a process that has ended, is stopped first.
    ///
    /// # Errors
    /// Those of [`Error`]; the process is where it was.
    pub async fn start_scope(&self, scope: &Scope<'_>) -> Result<()> {
        let doing = "start";
        let properties = vec![
            ("Description", Variant::from(scope.description)),
            ("Slice", Variant::from(scope.slice.name())),
            ("PIDs", Variant::from(vec![scope.pid])),
            // It makes cgroups of its own, and stays until the pod goes, also at shutdown: the pod's
            // own units are what is ordered.
            ("Delegate", Variant::from(true)),
            ("DefaultDependencies", Variant::from(false)),
            // Nothing is left of it once it is empty, however that came.
            ("CollectMode", Variant::from("inactive-or-failed")),
        ];
        let no_others: Vec<(&str, Vec<(&str, Variant<'_>)>)> = Vec::new();
        let body = (scope.name, "replace", properties, no_others);
        match self
            .job(doing, scope.name, "StartTransientUnit", &body)
            .await
        {
            Err(error) if is(&error, "UnitExists") => {
                self.stop(scope.name).await?;
                self.job(doing, scope.name, "StartTransientUnit", &body)
                    .await
            }
            done => done,
        }
    }

    /// Stops a unit, with SIGTERM and SIGKILL for what is in it, and has it forgotten; fine if it is
    /// not there.
    ///
    /// # Errors
    /// Those of [`Error`].
    pub async fn stop(&self, unit: &str) -> Result<()> {
        let doing = "stop";
        match self.job(doing, unit, "StopUnit", &(unit, "replace")).await {
            Err(error) if !is(&error, "NoSuchUnit") => return Err(error),
            _ => {}
        }
        self.forget(unit).await
    }

    /// Has a unit that failed forgotten; fine if it is not there.
    ///
    /// # Errors
    /// Those of [`Error`].
    pub async fn forget(&self, unit: &str) -> Result<()> {
        match self.call("forget", unit, "ResetFailedUnit", &(unit,)).await {
            Err(error) if !is(&error, "NoSuchUnit") => Err(error),
            _ => Ok(()),
        }
    }

    /// Calls a method that begins a job, and waits for its end.
    async fn job<B>(&self, doing: &'static str, unit: &str, method: &str, body: &B) -> Result<()>
    where
        B: serde::Serialize + zbus::DynamicType + Sync,
    {
        let failed = |result: String| Error::Job {
            doing,
            unit: unit.to_owned(),
            result,
        };
        let refused = |source| Error::Refused {
            doing,
            unit: unit.to_owned(),
            source,
        };
        let connection = self.connect().await?;
        // Before the call: the end may be told before its answer.
        let mut ends = ends(&connection).await.map_err(refused)?;
        let answer = self.call(doing, unit, method, body).await?;
        let job: OwnedObjectPath = answer.body().deserialize().map_err(refused)?;
        let end = async {
            while let Some(Ok(told)) = ends.next().await {
                let told = told.body();
                let ended = told.deserialize::<(u32, OwnedObjectPath, String, String)>();
                match ended {
                    Ok((_, path, _, result)) if path == job => return result,
                    _ => {}
                }
            }
            "connection lost".to_owned()
        };
        match tokio::time::timeout(TIMEOUT, end).await {
            Ok(result) if result == "done" || result == "skipped" => Ok(()),
            Ok(result) => Err(failed(result)),
            Err(_) => Err(failed(format!("no end within {TIMEOUT:?}"))),
        }
    }

    async fn call<B>(
        &self,
        doing: &'static str,
        unit: &str,
        method: &str,
        body: &B,
    ) -> Result<Message>
    where
        B: serde::Serialize + zbus::DynamicType + Sync,
    {
        let connection = self.connect().await?;
        let called = connection
            .call_method(Some(SERVICE), PATH, Some(MANAGER), method, body)
            .await;
        called.map_err(|source| Error::Refused {
            doing,
            unit: unit.to_owned(),
            source,
        })
    }

    /// The connection, made anew where there is none or it is closed.
    async fn connect(&self) -> Result<Connection> {
        let mut kept = self.connection.lock().await;
        if let Some(connection) = kept.as_ref().filter(|connection| !connection.is_closed()) {
            return Ok(connection.clone());
        }
        *kept = None;
        let connection = open().await.map_err(Error::Unreachable)?;
        Ok(kept.insert(connection).clone())
    }
}

/// A connection on which systemd tells of jobs.
async fn open() -> zbus::Result<Connection> {
    let connection = zbus::connection::Builder::system()
        .method_timeout(TIMEOUT)
        .build()
        .await?;
    connection
        .call_method(Some(SERVICE), PATH, Some(MANAGER), "Subscribe", &())
        .await?;
    Ok(connection)
}

/// Ends of jobs, from now on.
async fn ends(connection: &Connection) -> zbus::Result<MessageStream> {
    let rule = MatchRule::builder()
        .msg_type(zbus::message::Type::Signal)
        .interface(MANAGER)
        .member("JobRemoved")
        .build()?;
    MessageStream::for_match_rule(rule, connection, None).await
}

/// Whether it is systemd's own error of that name.
fn is(error: &Error, name: &str) -> bool {
    match error {
        Error::Refused {
            source: zbus::Error::MethodError(of, ..),
            ..
        } => of.rsplit('.').next() == Some(name),
        _ => false,
    }
}
