//! Key providers: programs of the node or services that unwrap keys, named in a file (ocicrypt,
//! docs/keyprovider.md). One gets a JSON document, on its standard input or by a call, and answers with
//! one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::json;
use sys::spawn::{Program, run};

use crate::error::{Error, Result};
use crate::limits;

pub(super) mod grpc;

/// What a provider may take: it may ask a service far away.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The providers that are configured.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Providers {
    #[serde(default, rename = "key-providers")]
    providers: BTreeMap<String, Provider>,
}

#[derive(Debug, Deserialize)]
struct Provider {
    cmd: Option<Command>,
    /// An address; where there is a program, too, that counts.
    grpc: Option<String>,
    /// How to reach the address with TLS.
    #[serde(rename = "grpc-tls")]
    tls: Option<serde::de::IgnoredAny>,
}

#[derive(Debug, Deserialize)]
struct Command {
    path: PathBuf,
    #[serde(default)]
    args: Vec<String>,
}

#[derive(Deserialize)]
struct Answer {
    keyunwrapresults: Results,
}

#[derive(Deserialize)]
struct Results {
    optsdata: String,
}

impl Providers {
    /// Reads a file of them; where there is none there are none.
    pub(super) fn load(path: Option<&Path>) -> Result<Self> {
        use std::io::Read as _;
        let Some(path) = path else {
            return Ok(Self::default());
        };
        let mut bytes = Vec::new();
        let read = std::fs::File::open(path)
            .and_then(|file| file.take(limits::FILE_BYTES).read_to_end(&mut bytes));
        match read {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error.to_string()),
            Ok(_) => serde_json::from_slice(&bytes).map_err(|error| error.to_string()),
        }
        .map_err(|reason| Error::Config {
            path: path.to_owned(),
            reason,
        })
    }

    /// Has the provider `name` unwrap an annotation. Blocks.
    pub(super) fn unwrap(&self, name: &str, annotation: &[u8]) -> Result<Vec<u8>, String> {
        let provider = self
            .providers
            .get(name)
            .ok_or("no key provider of this name")?;
        let request = json!({"op": "keyunwrap",
            "keywrapparams": {"ec": null, "optsdata": null},
            "keyunwrapparams": {"dc": {"Parameters": {}}, "annotation": STANDARD.encode(annotation)}});
        let request = request.to_string();
        let answer = match (&provider.cmd, &provider.grpc, &provider.tls) {
            (Some(command), _, _) => by_program(command, &request)?,
            (None, Some(_), Some(_)) => {
                return Err("key providers by gRPC with TLS are not supported".to_owned());
            }
            (None, Some(address), None) => grpc::unwrap(address, request.as_bytes())?,
            (None, None, _) => return Err("neither a program nor an address".to_owned()),
        };
        // Its answer is the key: no word of it gets into an error.
        let answer: Answer =
            serde_json::from_slice(&answer).map_err(|_| "no answer that is understood")?;
        let options = STANDARD.decode(answer.keyunwrapresults.optsdata);
        options.map_err(|_| "no answer that is understood".to_owned())
    }
}

fn by_program(command: &Command, request: &str) -> Result<Vec<u8>, String> {
    let mut program = Program::new(command.path.clone(), TIMEOUT).stdin(request);
    for argument in &command.args {
        program = program.arg(argument);
    }
    program.env = std::env::vars_os().collect();
    let output = run(&program).map_err(|error| error.to_string())?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{}: {}", output.status, words.trim()));
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_unwraps_and_what_it_says_stays_secret() {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("config.json");
        let script = |text: &str| json!({"cmd": {"path": "/bin/sh", "args": ["-c", text]}});
        let text = json!({"key-providers": {
            "good": script(r#"grep -q '"op":"keyunwrap".*"annotation":"d3JhcHBlZA=="' && echo '{"keyunwrapresults":{"optsdata":"b3BlbmVk"}}'"#),
            "fails": script("echo broken >&2; exit 3"),
            "babbles": script("echo the-secret"),
            "grpc": {"grpc": "127.0.0.1:1"},
            "secure": {"grpc": "127.0.0.1:1", "grpc-tls": {"root-ca-file": "/x"}},
            "empty": {}}});
        std::fs::write(&config, text.to_string()).unwrap();
        let providers = Providers::load(Some(&config)).unwrap();
        assert_eq!(providers.unwrap("good", b"wrapped").unwrap(), b"opened");
        for (name, expected) in [
            ("fails", "broken"),
            ("babbles", "no answer that is understood"),
            ("grpc", "connect to 127.0.0.1:1"),
            ("secure", "not supported"),
            ("empty", "neither a program nor an address"),
            ("none", "no key provider"),
        ] {
            let error = providers.unwrap(name, b"wrapped").unwrap_err();
            assert!(
                error.contains(expected) && !error.contains("the-secret"),
                "{name}: {error}"
            );
        }
        let absent = Providers::load(Some(&dir.path().join("absent"))).unwrap();
        assert!(absent.providers.is_empty());
    }
}
