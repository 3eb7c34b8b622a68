//! A container's states.
//!
//! ```text
//! Created ──start──► Running ──exit──► Exited
//!    └────────────────exit───────────────▲
//! ```
//! One that is to be restored from a checkpoint is Created without a process ([`NOBODY`]).

use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use spec::oci;

use crate::seccomp_notifier::Action;
use crate::{ContainerId, ContainerRequest, PodId};

/// A container as it is. Immutable: a change makes a new value in the snapshot.
#[derive(Debug, Clone)]
pub struct Container {
    /// Its id.
    pub id: ContainerId,
    /// The pod it is in.
    pub pod: PodId,
    /// What was asked for.
    pub request: Arc<ContainerRequest>,
    /// What came out of it, fixed when it was created.
    pub made: Arc<Made>,
    /// Its limits in force: those of the request until they are updated.
    pub limits: Arc<spec::resources::Request>,
    /// When it was created.
    pub created: SystemTime,
    /// When the last checkpoint of it was made.
    pub checkpointed: Option<SystemTime>,
    /// Why it is being stopped, where the seccomp notifier does that.
    pub condemned: Option<String>,
    /// Where it is in its life.
    pub phase: Phase,
}

/// What creating a container settled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Made {
    /// Id of its image.
    pub image_id: String,
    /// `repository@digest` of its image, or its id.
    pub image_ref: String,
    /// A name of its image; empty if it has none.
    pub image_name: String,
    /// Absolute path of its log; empty if it has none.
    pub log_path: String,
    /// User and groups of its first process.
    pub user: oci::User,
    /// Signal that asks it to stop.
    pub stop_signal: i32,
    /// Path of its cgroup, in every hierarchy.
    pub cgroup: String,
    /// Whether it has a terminal.
    pub terminal: bool,
    /// Mounted root.
    pub root: std::path::PathBuf,
    /// Images that are mounted in it beside its own, in the order of the mounts that ask for them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub image_volumes: Vec<String>,
    /// The checkpoint that it is restored from, where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored: Option<Restored>,
    /// SELinux labels.
    #[serde(default)]
    pub selinux: spec::selinux::Labels,
    /// What is done about the calls that its seccomp profile forbids, where somebody wants to know of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notifier: Option<Action>,
}

/// A checkpoint that a container is restored from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// When it was made, as its archive says.
    pub checkpointed: String,
    /// What its processes ran.
    #[serde(default)]
    pub args: Vec<String>,
}

impl Container {
    /// Whether its start is to restore its processes: there are none yet.
    #[must_use]
    pub fn awaits_restore(&self) -> bool {
        self.made.restored.is_some() && self.phase == Phase::Created { init: NOBODY }
    }

    /// Its end `exit`, with the reason why it was stopped, where the seccomp notifier did that.
    pub(crate) fn explained(&self, exit: Exit) -> Exit {
        match &self.condemned {
            Some(why) if exit.reason.is_none() && !exit.oom_killed => Exit {
                message: why.clone(),
                reason: Some(SECCOMP_KILLED.to_owned()),
                ..exit
            },
            _ => exit,
        }
    }
}

/// The first process, told apart from a later one with the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Init {
    /// Its number on the host.
    pub pid: i32,
    /// When it started, in clock ticks since boot (proc_pid_stat(5), field 22).
    pub start_time: u64,
}

/// No process yet.
pub const NOBODY: Init = Init {
    pid: 0,
    start_time: 0,
};

/// The reason of an end that the seccomp notifier made (CRI-O).
pub(crate) const SECCOMP_KILLED: &str = "seccomp killed";

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit code; 128 + the signal where one ended it.
    pub code: i32,
    /// When.
    pub finished: SystemTime,
    /// Whether memory ran out.
    pub oom_killed: bool,
    /// What there is to say beside the code; empty as a rule.
    pub message: String,
    /// Why, where the rest does not say it: a CRI reason such as `StartError`, of one that never ran.
    pub reason: Option<String>,
}

impl Exit {
    /// The CRI's reason.
    #[must_use]
    pub fn reason(&self) -> &str {
        match &self.reason {
            Some(reason) => reason,
            None if self.oom_killed => "OOMKilled",
            None if self.code == 0 => "Completed",
            None => "Error",
        }
    }
}

/// Where a container is in its life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Its first process waits to be started.
    Created {
        /// That process.
        init: Init,
    },
    /// It runs.
    Running {
        /// Its first process.
        init: Init,
        /// Since when.
        started: SystemTime,
    },
    /// It has ended, for good.
    Exited {
        /// When it had started, if it ever did.
        started: Option<SystemTime>,
        /// How it ended.
        exit: Exit,
    },
}

/// A step that the states don't allow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a container that is {from} can't be {event}")]
pub struct IllegalStep {
    /// The state it was in.
    pub from: &'static str,
    /// What was to happen.
    pub event: &'static str,
}

impl Phase {
    /// The state's name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Created { .. } => "created",
            Self::Running { .. } => "running",
            Self::Exited { .. } => "exited",
        }
    }

    /// The first process while there is one.
    #[must_use]
    pub fn init(&self) -> Option<Init> {
        match self {
            Self::Created { init } | Self::Running { init, .. } => Some(*init),
            Self::Exited { .. } => None,
        }
    }

    /// Created → Running. The news of an end may overtake the news of the start: then Exited gets
    /// the time of its start.
    ///
    /// # Errors
    /// [`IllegalStep`] from any other state.
    pub fn started(&self, at: SystemTime) -> Result<Self, IllegalStep> {
        match self {
            Self::Created { init } => Ok(Self::Running {
                init: *init,
                started: at,
            }),
            Self::Exited {
                started: None,
                exit,
            } if exit.reason.is_none() => Ok(Self::Exited {
                started: Some(at.min(exit.finished)),
                exit: exit.clone(),
            }),
            Self::Running { .. } | Self::Exited { .. } => Err(IllegalStep {
                from: self.name(),
                event: "started",
            }),
        }
    }

    /// Created → Running with the process `init`, which may be another than that of the creation:
    /// a restore makes it.
    ///
    /// # Errors
    /// As [`Phase::started`].
    pub fn runs(&self, init: Init, at: SystemTime) -> Result<Self, IllegalStep> {
        match self {
            Self::Created { .. } => Ok(Self::Running { init, started: at }),
            Self::Running { .. } | Self::Exited { .. } => self.started(at),
        }
    }

    /// Created or Running → Exited. Nothing leaves Exited: a second exit is a defect of ours.
    ///
    /// # Errors
    /// [`IllegalStep`] from Exited.
    pub fn exited(&self, mut exit: Exit) -> Result<Self, IllegalStep> {
        let started = match self {
            Self::Created { .. } => None,
            Self::Running { started, .. } => Some(*started),
            Self::Exited { .. } => {
                return Err(IllegalStep {
                    from: "exited",
                    event: "exited",
                });
            }
        };
        // A clock that was set back must not make it end before it began.
        exit.finished = exit.finished.max(started.unwrap_or(exit.finished));
        Ok(Self::Exited { started, exit })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INIT: Init = Init {
        pid: 7,
        start_time: 1,
    };

    fn exit(code: i32) -> Exit {
        Exit {
            code,
            finished: SystemTime::UNIX_EPOCH,
            oom_killed: false,
            message: String::new(),
            reason: None,
        }
    }

    #[test]
    fn a_container_goes_one_way() {
        let created = Phase::Created { init: INIT };
        let running = created.started(SystemTime::UNIX_EPOCH).unwrap();
        let exited = running.exited(exit(3)).unwrap();
        assert!(running.started(SystemTime::UNIX_EPOCH).is_err());
        assert!(exited.started(SystemTime::UNIX_EPOCH).is_err());
        assert_eq!(
            exited.exited(exit(4)),
            Err(IllegalStep {
                from: "exited",
                event: "exited"
            })
        );
        assert!(matches!(
            created.exited(exit(1)),
            Ok(Phase::Exited { started: None, .. })
        ));
    }

    #[test]
    fn an_end_that_is_told_first_keeps_the_start() {
        let later = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(9);
        let exited = Phase::Created { init: INIT }.exited(exit(0)).unwrap();
        let Ok(Phase::Exited { started, .. }) = exited.started(later) else {
            panic!("it did start")
        };
        assert_eq!(started, Some(SystemTime::UNIX_EPOCH), "never after its end");
        let refused = Exit {
            reason: Some("StartError".into()),
            ..exit(128)
        };
        let refused = Phase::Created { init: INIT }.exited(refused).unwrap();
        assert!(
            refused.started(later).is_err(),
            "one that never ran has no start"
        );
    }

    #[test]
    fn it_never_ends_before_it_began() {
        let later = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(9);
        let running = Phase::Running {
            init: INIT,
            started: later,
        };
        let Ok(Phase::Exited { exit, .. }) = running.exited(exit(0)) else {
            panic!("it ends")
        };
        assert_eq!(exit.finished, later);
    }

    #[test]
    fn reasons_are_the_kubelets() {
        assert_eq!(exit(0).reason(), "Completed");
        assert_eq!(exit(1).reason(), "Error");
        assert_eq!(
            Exit {
                oom_killed: true,
                ..exit(137)
            }
            .reason(),
            "OOMKilled"
        );
        assert_eq!(
            Exit {
                reason: Some("StartError".into()),
                ..exit(128)
            }
            .reason(),
            "StartError"
        );
    }
}
