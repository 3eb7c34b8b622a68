//! Fault points: named places where a test build can be made to fail, hang or die.
//!
//! Without the feature `faults` a point is nothing. With it, the environment variable
//! `CRIOXIDE_FAULTS` holds `name=action` pairs, separated by commas, read once. Actions: `fail`
//! (an error, once), `full` (the error of a full disk, once), `fail-always`, `hang` (until the process is killed) and `kill` (SIGKILL to
//! ourselves: nothing is cleaned up). A name may end in `*`.

#[cfg(not(feature = "faults"))]
use std::io;

/// Passes the point `name`, unless a test asks for something else.
///
/// # Errors
/// The fault that was asked for.
#[cfg(not(feature = "faults"))]
pub fn point(_name: &str) -> io::Result<()> {
    Ok(())
}

#[cfg(feature = "faults")]
pub use armed::point;

#[cfg(feature = "faults")]
mod armed {
    use std::io;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicBool, Ordering};

    use rustix::process::{Signal, getpid, kill_process};

    #[derive(Debug, Clone, Copy)]
    enum Action {
        Fail { again: bool },
        Full,
        Hang,
        Kill,
    }

    #[derive(Debug)]
    struct Fault {
        name: String,
        action: Action,
        spent: AtomicBool,
    }

    /// Passes the point `name`, unless a test asks for something else.
    ///
    /// # Errors
    /// The fault that was asked for.
    pub fn point(name: &str) -> io::Result<()> {
        static FAULTS: OnceLock<Vec<Fault>> = OnceLock::new();
        let faults =
            FAULTS.get_or_init(|| parse(&std::env::var("CRIOXIDE_FAULTS").unwrap_or_default()));
        let Some(fault) = faults.iter().find(|fault| matches(&fault.name, name)) else {
            return Ok(());
        };
        match fault.action {
            Action::Fail { again } if again || !fault.spent.swap(true, Ordering::Relaxed) => {
                Err(io::Error::other(format!("fault injected at {name}")))
            }
            Action::Full if !fault.spent.swap(true, Ordering::Relaxed) => {
                Err(rustix::io::Errno::NOSPC.into())
            }
            Action::Fail { .. } | Action::Full => Ok(()),
            Action::Kill => {
                kill_process(getpid(), Signal::KILL)?;
                Ok(())
            }
            Action::Hang => loop {
                std::thread::park();
            },
        }
    }

    fn matches(pattern: &str, name: &str) -> bool {
        pattern
            .strip_suffix('*')
            .map_or(pattern == name, |prefix| name.starts_with(prefix))
    }

    fn parse(text: &str) -> Vec<Fault> {
        let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
        let faults = pairs.filter_map(|(name, action)| {
            let action = match action {
                "fail" => Action::Fail { again: false },
                "fail-always" => Action::Fail { again: true },
                "full" => Action::Full,
                "hang" => Action::Hang,
                "kill" => Action::Kill,
                _ => return None,
            };
            Some(Fault {
                name: name.to_owned(),
                action,
                spent: AtomicBool::new(false),
            })
        });
        faults.collect()
    }
}
