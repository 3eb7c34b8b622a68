//! The environment of a container's processes. Values need not be UTF-8, but runtimes are told the
//! environment by JSON: where one is not, values travel percent-encoded (RFC 3986, section 2.1) and the
//! program [`DECODER`], mounted into the container, gives the command the bytes that were asked for.

use std::collections::{BTreeSet, HashMap};

use percent_encoding::{AsciiSet, CONTROLS, percent_encode};

use crate::process::ImageDefaults;
use crate::{Error, oci};

/// The search path where neither image nor request gives one.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Where the program that decodes values is in a container: `DECODER COUNT NAME... COMMAND...` decodes
/// the variables of these names and becomes the command.
pub const DECODER: &str = "/.crioxide-env";
/// What is encoded beside bytes that are not ASCII.
const ENCODED: &AsciiSet = &CONTROLS.add(b'%');

/// Variables in their order.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// As `NAME=value`.
    pub entries: Vec<String>,
    /// Names of those whose value is encoded.
    pub encoded: BTreeSet<String>,
}

impl Environment {
    /// What to run so that `command` gets the values as they were asked for.
    #[must_use]
    pub fn decoding(&self, command: Vec<String>) -> Vec<String> {
        if self.encoded.is_empty() {
            return command;
        }
        let count = self.encoded.len().to_string();
        let names = self.encoded.iter().cloned();
        [DECODER.to_owned(), count]
            .into_iter()
            .chain(names)
            .chain(command)
            .collect()
    }
}

/// The environment: configured defaults, then the image's, then the request's; later values win
/// and keep the first one's place.
///
/// # Errors
/// [`Error::Invalid`] for a name with `=` or NUL, a value with NUL.
pub fn environment(
    defaults: &[String],
    image: &ImageDefaults,
    request: &[(String, Vec<u8>)],
    own: &[String],
) -> Result<Environment, Error> {
    let mut merged = Merged::default();
    for entry in [&[PATH.to_owned()], own, defaults, &image.env[..]]
        .into_iter()
        .flatten()
    {
        let (name, _) = entry.split_once('=').unwrap_or((entry, ""));
        merged.set(name, entry.clone());
    }
    for (name, value) in request {
        let invalid = |reason: &str| Error::Invalid {
            what: "environment variable",
            reason: format!("{name:?} {reason}"),
        };
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(invalid("is no name"));
        }
        if value.contains(&0) {
            return Err(invalid("has a value with a NUL byte"));
        }
        if let Ok(value) = std::str::from_utf8(value) {
            merged.set(name, format!("{name}={value}"));
        } else {
            merged.set(name, format!("{name}={}", percent_encode(value, ENCODED)));
            merged.found.encoded.insert(name.clone());
        }
    }
    Ok(merged.found)
}

/// The same for another command of a container that was made by `spec`.
#[must_use]
pub fn decoding_too(spec: &oci::Spec, command: Vec<String>) -> Vec<String> {
    // The mount can't be the image's doing, as the words can.
    let decodes = spec.mounts.iter().any(|mount| mount.destination == DECODER);
    let first = spec.process.as_ref().filter(|_| decodes);
    let prefix = first.and_then(|first| {
        let names: usize = first.args.get(1)?.parse().ok()?;
        first.args.get(..names.checked_add(2)?)
    });
    [prefix.unwrap_or_default(), &command].concat()
}

#[derive(Default)]
struct Merged {
    found: Environment,
    places: HashMap<String, usize>,
}

impl Merged {
    fn set(&mut self, name: &str, entry: String) {
        self.found.encoded.remove(name);
        let entries = &mut self.found.entries;
        match self
            .places
            .get(name)
            .and_then(|place| entries.get_mut(*place))
        {
            Some(old) => *old = entry,
            None => {
                self.places.insert(name.to_owned(), entries.len());
                entries.push(entry);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn the_request_wins_over_the_image_over_the_defaults() {
        let image = ImageDefaults {
            env: strings(&["A=image", "B=image"]),
            ..Default::default()
        };
        let request = [("B".to_owned(), b"request".to_vec())];
        let env =
            environment(&strings(&["A=default", "C=default"]), &image, &request, &[]).unwrap();
        assert_eq!(env.entries[1..], ["A=image", "C=default", "B=request"]);
        assert_eq!(env.decoding(strings(&["true"])), ["true"]);
        for (name, value) in [("A=B", &b""[..]), ("", b"x"), ("A", b"x\0")] {
            let request = [(name.to_owned(), value.to_vec())];
            assert!(environment(&[], &image, &request, &[]).is_err(), "{name:?}");
        }
    }

    #[test]
    fn values_that_json_can_not_hold_are_encoded_and_told_by_name() {
        let request = [
            ("B", &b"\xff%41 \n="[..]),
            ("A", b"\xfe"),
            ("T", "100 % größer".as_bytes()),
            ("C", b"\xfd"),
            ("C", b"text"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_vec()));
        let env = environment(&[], &ImageDefaults::default(), &request, &[]).unwrap();
        let wanted = ["B=%FF%2541 %0A=", "A=%FE", "T=100 % größer", "C=text"];
        assert_eq!(env.entries[1..], wanted);

        let args = env.decoding(strings(&["sh", "-c"]));
        assert_eq!(args, [DECODER, "2", "A", "B", "sh", "-c"]);
        let mut spec = oci::Spec {
            process: Some(oci::Process {
                args,
                ..oci::Process::default()
            }),
            ..oci::Spec::default()
        };
        let other = strings(&["ls"]);
        assert_eq!(decoding_too(&spec, other.clone()), other);
        spec.mounts.push(oci::Mount {
            destination: DECODER.to_owned(),
            ..oci::Mount::default()
        });
        assert_eq!(
            decoding_too(&spec, other.clone()),
            [DECODER, "2", "A", "B", "ls"]
        );
        for count in ["", "-1", "9", "18446744073709551615"] {
            spec.process.as_mut().unwrap().args[1] = count.to_owned();
            assert_eq!(decoding_too(&spec, other.clone()), other, "{count}");
        }
    }
}
