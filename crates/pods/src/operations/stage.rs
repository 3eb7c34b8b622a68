//! Stages: what an operation does in the kernel and on disk, as data.
//!
//! A plan is a list of stages, each with the names of earlier ones that it needs; those that need
//! nothing of each other run side by side. Each has an idempotent undo, and that it is about to act
//! is recorded before it does ([`super::intent`]). So one test can fail, repeat and kill at every
//! stage of every operation, and a successor of a killed daemon can undo what was begun. Undoing
//! goes against the list's order, and on past a failure.

use std::future::Future;
use std::pin::Pin;

use futures_util::stream::{FuturesUnordered, StreamExt as _};

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
    /// Those that it needs, of the ones before it in the plan.
    pub(crate) after: &'static [&'static str],
    /// Does it.
    pub(crate) act: for<'a> fn(&'a C) -> Doing<'a>,
    /// Takes it back; `None` where there is nothing to take back.
    pub(crate) undo: Option<Undo>,
}

/// Stages, each after all that it needs.
pub(crate) type Plan<C> = [Stage<C>];

/// Does all stages of `plan`. After a failure nothing begins any more, what runs is waited for, and
/// everything that had begun is undone.
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
    let mut waiting: Vec<&Stage<C>> = plan.iter().collect();
    let (mut begun, mut done, mut failed) = (Vec::new(), Vec::new(), None);
    let mut running = FuturesUnordered::new();
    loop {
        let ready = |stage: &mut &Stage<C>| stage.after.iter().all(|name| done.contains(name));
        let ready: Vec<_> = match failed {
            None => waiting.extract_if(.., ready).collect(),
            Some(_) => Vec::new(),
        };
        for stage in ready {
            if let Err(error) = intent.record(stage.name) {
                failed = Some(error);
                break;
            }
            begun.push(stage.name);
            progress.at(stage.name);
            running.push(act(&subject.operation, stage, context));
        }
        match running.next().await {
            Some((name, Ok(()))) => done.push(name),
            Some((_, Err(error))) => failed = failed.or(Some(error)),
            None => break,
        }
    }
    drop(running);
    let Some(error) = failed else {
        return intent.end();
    };
    progress.at("undo");
    let undos = undos(plan).into_iter().rev();
    let undos = undos.filter(|(name, _)| begun.contains(name));
    if undo_all(node, subject, undos).await {
        intent.end()?;
    } else {
        node.owed.add(intent.left(subject, &begun));
    }
    Err(error)
}

async fn act<C>(
    operation: &str,
    stage: &Stage<C>,
    context: &C,
) -> (&'static str, Result<(), Error>) {
    let acted = async {
        fault(operation, stage.name, "before")?;
        (stage.act)(context).await?;
        fault(operation, stage.name, "after")
    };
    (stage.name, acted.await)
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
    plan.iter().map(|stage| (stage.name, stage.undo)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operations::{checkpoint_container, create_container, run_pod};

    fn ordered<C>(plan: &'static Plan<C>) {
        for (at, stage) in plan.iter().enumerate() {
            let earlier: Vec<_> = plan[..at].iter().map(|stage| stage.name).collect();
            assert!(!earlier.contains(&stage.name), "{} is twice", stage.name);
            for needed in stage.after {
                assert!(earlier.contains(needed), "{} after {needed}", stage.name);
            }
        }
    }

    #[test]
    fn every_stage_comes_after_what_it_needs() {
        ordered(run_pod::PLAN);
        ordered(create_container::PLAN);
        ordered(checkpoint_container::PLAN);
    }
}
