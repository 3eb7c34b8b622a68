//! `decode-env COUNT NAME... COMMAND...`: percent-decodes the variables of these names and becomes the
//! command. Mounted into containers that have values which a runtime can't be told by JSON.
//!
//! Ends as a shell does where the command can't be run: 127 for one that is not found, else 126.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::{self, Write as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use percent_encoding::percent_decode;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    let Some((names, program, arguments)) = parts(&arguments) else {
        return failed(2, "usage: decode-env COUNT NAME... COMMAND...");
    };
    let mut command = Command::new(program);
    command.args(arguments);
    for name in names {
        if let Some(value) = env::var_os(name) {
            command.env(name, decoded(&value));
        }
    }
    let error = command.exec();
    let missing = error.kind() == io::ErrorKind::NotFound;
    let text = format!("exec {}: {error}", program.to_string_lossy());
    failed(if missing { 127 } else { 126 }, &text)
}

fn failed(code: u8, text: &str) -> ExitCode {
    // The container's standard error may be closed.
    let _unheard = writeln!(io::stderr(), "decode-env: {text}");
    ExitCode::from(code)
}

/// The variables' names, the program and its arguments.
fn parts(arguments: &[OsString]) -> Option<(&[OsString], &OsString, &[OsString])> {
    let (count, rest) = arguments.split_first()?;
    let (names, command) = rest.split_at_checked(count.to_str()?.parse().ok()?)?;
    let (program, arguments) = command.split_first()?;
    Some((names, program, arguments))
}

fn decoded(value: &OsStr) -> OsString {
    OsString::from_vec(percent_decode(value.as_bytes()).collect())
}
