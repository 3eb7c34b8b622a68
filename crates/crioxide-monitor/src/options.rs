//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use monitor_protocol::Id;

/// What `--help` says.
pub(crate) const USAGE: &str = "\
usage: crioxide-monitor --pod ID --dir DIR --exits-dir DIR [--ready-fd N]

Keeps the containers of one pod: their stdio, logs, terminals and exit codes. Started by crioxide,
which talks to it at DIR/monitor.sock; of no use by hand.

  --pod ID         the pod
  --dir DIR        the monitor's directory, on a tmpfs
  --exits-dir DIR  where exit records are written
  --ready-fd N     a byte is written there once requests are taken
  --version        print the version
  --help           print this text
";

/// What the command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Run(Options),
    Version,
    Help,
}

/// Of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) pod: Id,
    pub(crate) dir: PathBuf,
    pub(crate) exits_dir: PathBuf,
    pub(crate) ready_fd: Option<i32>,
}

/// Reads the arguments (without the program's name).
pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Asked, String> {
    let mut args = args.into_iter();
    let (mut pod, mut dir, mut exits_dir, mut ready_fd) = (None, None, None, None);
    while let Some(arg) = args.next() {
        let name = arg.to_string_lossy().into_owned();
        match name.as_str() {
            "--version" => return Ok(Asked::Version),
            "--help" => return Ok(Asked::Help),
            _ => {}
        }
        let value = args.next().ok_or_else(|| format!("{name} needs a value"))?;
        match name.as_str() {
            "--pod" => {
                let id = Id::try_from(&*value.to_string_lossy()).map_err(|err| err.to_string())?;
                pod = Some(id);
            }
            "--dir" => dir = Some(absolute(&name, value)?),
            "--exits-dir" => exits_dir = Some(absolute(&name, value)?),
            "--ready-fd" => {
                let number = value.to_string_lossy().parse().ok().filter(|n| *n > 2);
                ready_fd = Some(number.ok_or("--ready-fd needs a number above 2")?);
            }
            _ => return Err(format!("unknown option {name}")),
        }
    }
    Ok(Asked::Run(Options {
        pod: pod.ok_or("--pod is missing")?,
        dir: dir.ok_or("--dir is missing")?,
        exits_dir: exits_dir.ok_or("--exits-dir is missing")?,
        ready_fd,
    }))
}

fn absolute(name: &str, value: OsString) -> Result<PathBuf, String> {
    let path = PathBuf::from(value);
    if path.is_absolute() {
        Ok(path)
    } else {
        Err(format!("{name} needs an absolute path"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_needs_pod_and_directories() {
        let run = |line: &str| parse(line.split(' ').filter(|s| !s.is_empty()).map(Into::into));
        let all = "--pod a --dir /d --exits-dir /e --ready-fd 3";
        let Ok(Asked::Run(options)) = run(all) else {
            panic!("refused")
        };
        assert_eq!((options.pod.as_str(), options.ready_fd), ("a", Some(3)));
        for (line, good) in [
            ("--help", true),
            ("--version", true),
            ("", false),
            ("--pod a --dir d --exits-dir /e", false),
            ("--pod ../a --dir /d --exits-dir /e", false),
            ("--pod a --dir /d --exits-dir /e --ready-fd 0", false),
            ("--pod a --dir /d --exits-dir", false),
            ("--pod a --dir /d --exits-dir /e --else x", false),
        ] {
            assert_eq!(run(line).is_ok(), good, "{line:?}");
        }
    }
}
