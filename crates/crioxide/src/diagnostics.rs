//! SIGUSR1: what the daemon does just now, in a file, for whoever wonders why nothing goes on.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use pods::RunningOperation;

/// Writes the operations that run and the state of each thread to a new file in the directory for
/// temporary files, and returns its path. Blocks.
///
/// # Errors
/// The file can't be written.
pub(crate) fn write(operations: &[RunningOperation]) -> io::Result<PathBuf> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let nanoseconds = since.unwrap_or_default().as_nanos();
    let path = std::env::temp_dir().join(format!("crioxide-tasks-{nanoseconds}.txt"));
    // Others may write in that directory: what is there already is not followed.
    let mut new = File::options();
    let mut file = new.write(true).create_new(true).mode(0o600).open(&path)?;
    file.write_all(text(operations).as_bytes())?;
    Ok(path)
}

fn text(operations: &[RunningOperation]) -> String {
    let mut text = format!("operations that run: {}\n", operations.len());
    for operation in operations {
        let json = serde_json::to_string(operation).unwrap_or_default();
        // Writing to a string can't fail.
        writeln!(text, "  {json}").ok();
    }
    let mut threads: Vec<_> = fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    threads.sort();
    writeln!(text, "threads: {}", threads.len()).ok();
    for thread in threads {
        text.push_str(&describe(&thread));
    }
    text
}

/// Name, state, system call and where in the kernel it waits, as far as the kernel tells.
fn describe(thread: &Path) -> String {
    let read = |name: &str| fs::read_to_string(thread.join(name)).unwrap_or_default();
    let status = read("status");
    let state = status.lines().find_map(|line| line.strip_prefix("State:"));
    let id = thread.file_name().unwrap_or_default().to_string_lossy();
    let mut text = format!(
        "  {id} {}: {}, system call {}\n",
        read("comm").trim(),
        state.unwrap_or("").trim(),
        read("syscall").trim(),
    );
    for line in read("stack").lines() {
        writeln!(text, "    {line}").ok();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_thread_is_told_with_its_name_and_state() {
        let (end, wait) = std::sync::mpsc::channel::<()>();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new().name("a-waiting-one".into());
        let waits = move || {
            ready.send(()).unwrap();
            wait.recv()
        };
        let thread = thread.spawn(waits).unwrap();
        is_ready.recv().unwrap();
        let text = text(&[]);
        drop(end);
        assert!(thread.join().unwrap().is_err());
        assert!(
            text.starts_with("operations that run: 0\nthreads: "),
            "{text}"
        );
        let line = text.lines().find(|line| line.contains("a-waiting-one: "));
        // It may not have gone to sleep yet.
        let states = ["R (running)", "S (sleeping)"];
        let told = |line: &str| states.iter().any(|state| line.contains(state));
        assert!(line.is_some_and(told), "{text}");
    }
}
