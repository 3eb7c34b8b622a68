//! What a container runs: command, working directory, and the signal that ends it.

use crate::{Error, limits};

/// The part of an image's configuration that a container starts from (image-spec, config.md).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageDefaults {
    /// `Entrypoint`.
    pub entrypoint: Vec<String>,
    /// `Cmd`.
    pub command: Vec<String>,
    /// `Env`, as `NAME=value`.
    pub env: Vec<String>,
    /// `WorkingDir`.
    pub working_dir: String,
    /// `User`.
    pub user: String,
    /// `StopSignal`.
    pub stop_signal: String,
    /// `Volumes`.
    pub volumes: Vec<String>,
}

/// What to run. A command of the request replaces the image's entrypoint and its command; arguments
/// alone replace the image's command.
///
/// # Errors
/// [`Error::NoCommand`].
pub fn arguments(
    image: &ImageDefaults,
    command: &[String],
    args: &[String],
) -> Result<Vec<String>, Error> {
    let (command, args) = match (command.is_empty(), args.is_empty()) {
        (true, true) => (&image.entrypoint[..], &image.command[..]),
        (true, false) => (&image.entrypoint[..], args),
        (false, _) => (command, args),
    };
    let all = [command, args].concat();
    if all.is_empty() {
        Err(Error::NoCommand)
    } else {
        Ok(all)
    }
}

/// The working directory: the request's, else the image's, else `/`.
///
/// # Errors
/// [`Error::Invalid`] for one that is not absolute, or that leads through a descriptor of another
/// process (CVE-2024-21626).
pub fn working_dir(image: &ImageDefaults, request: &str) -> Result<String, Error> {
    let dir = [request, &image.working_dir, "/"]
        .into_iter()
        .find(|dir| !dir.is_empty())
        .unwrap_or("/");
    let invalid = |reason: &str| Error::Invalid {
        what: "working directory",
        reason: format!("{dir:?} {reason}"),
    };
    if !dir.starts_with('/') {
        return Err(invalid("is not absolute"));
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in dir.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    if let ["proc", _, "fd", ..] | ["proc", _, "task", _, "fd", ..] | ["dev", "fd", ..] = parts[..]
    {
        return Err(invalid("leads through a file descriptor"));
    }
    Ok(format!("/{}", parts.join("/")))
}

/// The signal that asks a container to stop, by number: `SIGTERM`, `TERM`, `15`, `RTMIN+3`.
///
/// # Errors
/// [`Error::Invalid`].
pub fn stop_signal(text: &str) -> Result<i32, Error> {
    const NAMES: &[&str] = &[
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
        "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
        "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    /// glibc keeps two real-time signals for itself.
    const RTMIN: i32 = 34;
    const RTMAX: i32 = 64;
    let invalid = || Error::Invalid {
        what: "stop signal",
        reason: format!("{text:?} is no signal"),
    };
    if text.is_empty() {
        return Ok(15);
    }
    let upper = text.to_ascii_uppercase();
    let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
    let number = if let Ok(number) = bare.parse::<i32>() {
        number
    } else if let Some(place) = NAMES.iter().position(|name| *name == bare) {
        i32::try_from(place).map_err(|_| invalid())? + 1
    } else if let Some(offset) = bare.strip_prefix("RTMIN") {
        RTMIN
            + if offset.is_empty() {
                0
            } else {
                offset
                    .strip_prefix('+')
                    .and_then(|n| n.parse().ok())
                    .ok_or_else(invalid)?
            }
    } else if let Some(offset) = bare.strip_prefix("RTMAX") {
        RTMAX
            - if offset.is_empty() {
                0
            } else {
                offset
                    .strip_prefix('-')
                    .and_then(|n| n.parse::<i32>().ok())
                    .ok_or_else(invalid)?
            }
    } else {
        return Err(invalid());
    };
    if (1..=RTMAX).contains(&number) {
        Ok(number)
    } else {
        Err(invalid())
    }
}

/// Whether `name` can be a host name in `/etc/hostname` and a UTS namespace (hostname(7)).
#[must_use]
pub fn is_host_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 64
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'))
}

/// Whether an id given as text or number is one (see [`limits::MAX_ID`]).
pub(crate) fn id(value: i64) -> Result<u32, Error> {
    u32::try_from(value)
        .ok()
        .filter(|id| *id <= limits::MAX_ID)
        .ok_or_else(|| Error::IdRange(value.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn commands_and_arguments_override_as_kubernetes_documents() {
        let image = ImageDefaults {
            entrypoint: strings(&["/ep"]),
            command: strings(&["a"]),
            ..Default::default()
        };
        for (command, args, wanted) in [
            (&[][..], &[][..], &["/ep", "a"][..]),
            (&["/c"], &[], &["/c"]),
            (&[], &["x"], &["/ep", "x"]),
            (&["/c"], &["x"], &["/c", "x"]),
        ] {
            assert_eq!(
                arguments(&image, &strings(command), &strings(args)).unwrap(),
                wanted
            );
        }
        assert_eq!(
            arguments(&ImageDefaults::default(), &[], &[]),
            Err(Error::NoCommand)
        );
    }

    #[test]
    fn working_directories_are_absolute_and_never_a_descriptor() {
        for (dir, wanted) in [
            ("", Some("/srv")),
            ("/a/../b/", Some("/b")),
            ("rel", None),
            ("/proc/self/fd/7", None),
            ("/proc/1/fd/../fd/7", None),
            ("/dev/fd/3", None),
        ] {
            let image = ImageDefaults {
                working_dir: "/srv".into(),
                ..Default::default()
            };
            assert_eq!(working_dir(&image, dir).ok().as_deref(), wanted, "{dir:?}");
        }
    }

    #[test]
    fn stop_signals_have_many_spellings() {
        for (text, wanted) in [
            ("", Some(15)),
            ("SIGTERM", Some(15)),
            ("kill", Some(9)),
            ("9", Some(9)),
            ("SIGSYS", Some(31)),
            ("RTMIN", Some(34)),
            ("SIGRTMIN+3", Some(37)),
            ("SIGRTMAX-1", Some(63)),
            ("SIGNOPE", None),
            ("0", None),
            ("65", None),
        ] {
            assert_eq!(stop_signal(text).ok(), wanted, "{text:?}");
        }
    }
}
