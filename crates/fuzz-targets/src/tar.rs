//! Archives, read by us and by GNU tar.

use std::time::Duration;

use storage::fuzzing::Listed;
use sys::spawn::{Program, run};

const TAR: &str = "/usr/bin/tar";
const PATIENCE: Duration = Duration::from_secs(20);

/// What both take without a word is the same to both: names, and sizes of regular files. GNU tar
/// tells where it looks away from something; then nothing can be said.
pub(crate) fn with_gnu(bytes: &[u8]) {
    let (archive, Some(ours)) = storage::fuzzing::tar_entries(bytes) else {
        return;
    };
    // A regular file with a slash at its end is a directory to GNU tar; to Go, which we follow, it is
    // one only by the type of the oldest archives.
    if ours
        .iter()
        .any(|(name, size)| size.is_some() && name.ends_with(b"/"))
    {
        return;
    }
    let Some(theirs) = gnu(&archive) else {
        return;
    };
    let names = |entries: &[Listed]| -> Vec<String> {
        let words = |(name, size): &Listed| format!("{} {size:?}", String::from_utf8_lossy(name));
        entries.iter().map(words).collect()
    };
    assert_eq!(names(&ours), names(&theirs), "ours and GNU's");
}

/// Entries as GNU tar lists them; `None` if it fails or has something to say.
fn gnu(archive: &[u8]) -> Option<Vec<Listed>> {
    let mut program = Program::new(TAR, PATIENCE)
        .args(["--list", "--verbose", "--numeric-owner", "--utc"])
        .args([
            "--warning=no-unknown-keyword",
            "--warning=no-alone-zero-block",
        ])
        .args(["--quoting-style=c", "--absolute-names", "--file=-"])
        .env("LC_ALL", "C")
        .stdin(archive);
    program.output_limit = 1 << 20;
    let output = run(&program).expect("GNU tar is installed");
    if !output.status.success() || !output.stderr.is_empty() || output.truncated {
        return None;
    }
    let lines = output.stdout.split(|byte| *byte == b'\n');
    lines.filter(|line| !line.is_empty()).map(entry).collect()
}

/// `-rw-r--r-- 0/0 12 1970-01-01 00:00 "name"`, with more behind the name of a link.
fn entry(line: &[u8]) -> Option<Listed> {
    let quote = line.iter().position(|byte| *byte == b'"')?;
    let (head, name) = line.split_at(quote);
    let head = String::from_utf8_lossy(head);
    let size = head.split_whitespace().nth(2)?;
    let regular = head.starts_with('-').then(|| size.parse().ok()).flatten();
    Some((unquote(name.get(1..)?), regular))
}

/// A string as C writes it, to its closing quote.
fn unquote(text: &[u8]) -> Vec<u8> {
    let (mut name, mut rest) = (Vec::new(), text);
    while let [byte, after @ ..] = rest {
        rest = after;
        match (byte, after) {
            (b'"', _) => break,
            (
                b'\\',
                [
                    a @ b'0'..=b'3',
                    b @ b'0'..=b'7',
                    c @ b'0'..=b'7',
                    after @ ..,
                ],
            ) => {
                name.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            (b'\\', [letter, after @ ..]) => {
                name.push(match letter {
                    b'a' => 7,
                    b'b' => 8,
                    b't' => 9,
                    b'n' => 10,
                    b'v' => 11,
                    b'f' => 12,
                    b'r' => 13,
                    other => *other,
                });
                rest = after;
            }
            _ => name.push(*byte),
        }
    }
    name
}
