//! Stages: what an operation does in the kernel and on disk, as data.
//!
//! A plan is a list of groups; the stages of a group run side by side. Each stage has an idempotent
//! undo, and that it is about to act is recorded before it does ([`super::intent`]). So one test
//! can fail, repeat and kill at every stage of every operation, and a successor of a killed daemon
//! can undo what was begun. Undoing goes on past a failure.

use std::future::Future;
use std::pin::Pin;

use futures_util::future::join_all;

use super::intent::{Intent, Subject};
use super::{Progress, chain};
use crate::Error;
use crate::node::Node;

/// A step under way.
pub(crate) type Doing<'a> = Pin<Box<dyn Future<Output = Result<(), Error>> + Send + 'a>>;
/// Takes back what a stage did, wholly or in part, or not at all.
pub(crate) type Undo = for<'a> fn(&'a Node, &'a Subject) -> Doing<'a>;

/// One step of an operation on `C`.
pub(crate) struct Stage<C> {
    /// Its name in intents, fault points, logs and `/operations`.
    pub(crate) name: &'static str,
    /// Does it.
    pub(crate) act: for<'a> fn(&'a C) -> Doing<'a>,
    /// Takes it back; `None` where there is nothing to take back.
    pub(crate) undo: Option<Undo>,
}

/// Stages in groups; those of a group run side by side.
pub(crate) type Plan<C> = [&'static [Stage<C>]];

/// Does all stages of `plan`. After a failure everything that had begun is undone.
///
/// # Errors
/// The first stage that failed.
pub(crate) async fn perform<C: Sync>(
    node: &Node,
    subject: &Subject,
    progress: &Progress,
    context: &C,
    plan: &'static Plan<C>,
) -> Result<(), Error> {
    let mut intent = Intent::begin(&node.intents(), subject)?;
    let mut begun: Vec<&Stage<C>> = Vec::new();
    for group in plan {
        for stage in *group {
            intent.record(stage.name)?;
            begun.push(stage);
        }
        progress.at(group.first().map_or("", |stage| stage.name));
        let acts = group
            .iter()
            .map(|stage| act(&subject.operation, stage, context));
        let failed = join_all(acts).await.into_iter().find_map(Result::err);
        if let Some(error) = failed {
            progress.at("undo");
            let undos = begun.iter().rev().map(|stage| (stage.name, stage.undo));
            if undo_all(node, subject, undos).await {
                intent.end()?;
            }
            return Err(error);
        }
    }
    intent.end()
}

async fn act<C>(operation: &str, stage: &Stage<C>, context: &C) -> Result<(), Error> {
    fault(operation, stage.name, "before")?;
    (stage.act)(context).await?;
    fault(operation, stage.name, "after")
}

/// A step of an operation that only goes forward: each may be repeated, and the record of what it is
/// about goes last.
pub(crate) async fn step<T>(
    operation: &str,
    name: &str,
    doing: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    fault(operation, name, "before")?;
    let done = doing.await?;
    fault(operation, name, "after")?;
    Ok(done)
}

/// Passes a fault point of a stage.
pub(crate) fn fault(operation: &str, stage: &str, when: &str) -> Result<(), Error> {
    let name = format!("{operation}.{stage}.{when}");
    sys::fault::point(&name).map_err(Error::io("pass", name))
}

/// Runs `undos` in order, all of them; whether every one succeeded.
pub(crate) async fn undo_all(
    node: &Node,
    subject: &Subject,
    undos: impl Iterator<Item = (&'static str, Option<Undo>)>,
) -> bool {
    let mut whole = true;
    for (stage, undo) in undos {
        let Some(undo) = undo else { continue };
        if let Err(error) = undo(node, subject).await {
            whole = false;
            let pod = subject.pod.as_str();
            tracing::error!(
                operation = subject.operation,
                stage,
                pod,
                error = chain(&error),
                "undo failed"
            );
        }
    }
    whole
}

/// Name and undo of every stage of a plan, in order.
pub(crate) fn undos<C>(plan: &'static Plan<C>) -> Vec<(&'static str, Option<Undo>)> {
    plan.iter()
        .flat_map(|group| group.iter())
        .map(|stage| (stage.name, stage.undo))
        .collect()
}
