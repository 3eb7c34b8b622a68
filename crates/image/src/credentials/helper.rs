//! Programs that keep credentials: `docker-credential-NAME get`, a host on its standard input, JSON on
//! its standard output.

use std::env;
use std::time::Duration;

use serde::Deserialize;
use sys::spawn::{Program, run, which};

use super::Credentials;

/// What a helper may take: some ask a cloud.
const TIMEOUT: Duration = Duration::from_secs(30);
/// What a helper says, with exit code 1, when it knows none.
const UNKNOWN: &str = "credentials not found in native keychain";
/// The user's name that says that the secret is an identity token.
const TOKEN: &str = "<token>";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

/// Asks the helper `name`, from the directories of `path`, for a host's credentials. It gets the daemon's own environment, as those of
/// clouds need it. Blocks.
///
/// # Errors
/// What is wrong with the helper, without what it said on its standard output.
pub(super) fn ask(name: &str, path: &str, host: &str) -> Result<Option<Credentials>, String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() || !name.chars().all(fine) {
        return Err(format!("invalid name of a credential helper {name:?}"));
    }
    let name = format!("docker-credential-{name}");
    let file = which(&name, path).ok_or_else(|| format!("no program {name} in PATH"))?;
    let mut program = Program::new(file, TIMEOUT).arg("get").stdin(host);
    program.env = env::vars_os().collect();
    let output = run(&program).map_err(|error| format!("{name}: {error}"))?;
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if !output.status.success() {
        let words = said(&output.stdout);
        if words == UNKNOWN {
            return Ok(None);
        }
        return Err(format!(
            "{name}: {}: {words} {}",
            output.status,
            said(&output.stderr)
        ));
    }
    let Answer { username, secret } =
        serde_json::from_slice(&output.stdout).map_err(|_| format!("{name}: no JSON"))?;
    Ok(match (username.as_str(), secret.is_empty()) {
        ("", true) => None,
        (TOKEN, _) => Some(Credentials::IdentityToken {
            username: String::new(),
            token: secret,
        }),
        _ => Some(Credentials::Basic {
            username,
            password: secret,
        }),
    })
}
