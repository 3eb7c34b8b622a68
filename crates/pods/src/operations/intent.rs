//! Intents: which stages an operation has begun, on tmpfs, so that a successor of a killed daemon
//! can undo them.
//!
//! One file per operation: the first line says what it is about, each further line names a stage
//! and is appended *before* the stage acts. The file goes when the operation has ended, well or
//! undone. A reboot discards it; what persists then is found by scanning.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{ContainerId, Error, PodId};

/// Whom an operation's undo is about: all that an undo may need to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Subject {
    /// `run-pod-sandbox` and the like.
    pub(crate) operation: String,
    /// The pod.
    pub(crate) pod: PodId,
    /// The container, where it is about one.
    pub(crate) container: Option<ContainerId>,
    /// Parent of the pod's cgroups.
    pub(crate) cgroup_parent: String,
    /// The unfinished archive, where one is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) archive: Option<PathBuf>,
}

/// The record of a running operation.
#[derive(Debug)]
pub(crate) struct Intent {
    path: PathBuf,
    file: File,
}

impl Intent {
    /// Begins the record in `dir`.
    pub(crate) fn begin(dir: &Path, subject: &Subject) -> Result<Self, Error> {
        let name = subject
            .container
            .as_ref()
            .map_or(subject.pod.as_str(), ContainerId::as_str);
        let path = dir.join(format!("{}.{name}", subject.operation));
        let mut file = File::create(&path).map_err(Error::io("create", &path))?;
        let line =
            serde_json::to_string(subject).map_err(|wrong| Error::Internal(wrong.to_string()))?;
        writeln!(file, "{line}").map_err(Error::io("write", &path))?;
        Ok(Self { path, file })
    }

    /// Records that `stage` is about to act.
    pub(crate) fn record(&mut self, stage: &str) -> Result<(), Error> {
        writeln!(self.file, "{stage}").map_err(Error::io("write", &self.path))
    }

    /// What a later undo has to know: that `stages` had begun.
    pub(crate) fn left(self, subject: &Subject, stages: &[&str]) -> Unfinished {
        Unfinished {
            subject: subject.clone(),
            stages: stages.iter().map(|&stage| stage.to_owned()).collect(),
            path: self.path,
        }
    }

    /// Ends the record: there is nothing left to undo.
    pub(crate) fn end(self) -> Result<(), Error> {
        fs::remove_file(&self.path).map_err(Error::io("remove", &self.path))
    }
}

/// An operation that is to be undone: a killed daemon had not ended it, or its undo failed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unfinished {
    pub(crate) subject: Subject,
    /// Stages that had begun, in order.
    pub(crate) stages: Vec<String>,
    path: PathBuf,
}

impl Unfinished {
    /// Forgets it, once it is undone.
    pub(crate) fn forget(&self) -> Result<(), Error> {
        match fs::remove_file(&self.path) {
            Err(gone) if gone.kind() == std::io::ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(Error::io("remove", &self.path)),
        }
    }
}

/// Reads all records in `dir`. One whose first line was not written whole began nothing.
pub(crate) fn unfinished(dir: &Path) -> Result<Vec<Unfinished>, Error> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).map_err(Error::io("read", dir))? {
        let path = entry.map_err(Error::io("read", dir))?.path();
        let text = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
        let mut lines = text.lines();
        let Some(subject) = lines
            .next()
            .and_then(|line| serde_json::from_str(line).ok())
        else {
            fs::remove_file(&path).map_err(Error::io("remove", &path))?;
            continue;
        };
        all.push(Unfinished {
            subject,
            stages: lines.map(str::to_owned).collect(),
            path,
        });
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_began_is_found_again_and_what_ended_is_not() {
        let dir = std::env::temp_dir().join(format!("intent-{}", PodId::random()));
        fs::create_dir(&dir).unwrap();
        let subject = |operation: &str| Subject {
            operation: operation.into(),
            pod: PodId::random(),
            container: None,
            cgroup_parent: "/x".into(),
            archive: None,
        };
        let kept = subject("run-pod-sandbox");
        let mut intent = Intent::begin(&dir, &kept).unwrap();
        intent.record("record").unwrap();
        intent.record("network").unwrap();
        let ended = Intent::begin(&dir, &subject("run-pod-sandbox")).unwrap();
        ended.end().unwrap();
        fs::write(dir.join("torn"), "{\"operation\":\"run").unwrap();
        let found = unfinished(&dir).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(
            (&found[0].subject, found[0].stages.join(" ")),
            (&kept, "record network".to_owned())
        );
        found[0].forget().unwrap();
        assert!(fs::read_dir(&dir).unwrap().next().is_none());
        fs::remove_dir(&dir).unwrap();
    }
}
