//! A token service for a registry (distribution's token authentication), on loopback: it gives
//! whoever knows the password what is asked for.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::signer::openssl;

/// The service; its thread ends with it.
#[derive(Debug)]
pub struct TokenServer {
    addr: SocketAddr,
    directory: PathBuf,
    over: Arc<AtomicBool>,
    given: Arc<AtomicUsize>,
}

impl TokenServer {
    /// Starts one with a key of its own in `directory`, for this user.
    ///
    /// # Errors
    /// No key can be made, or no port is free.
    pub fn start(directory: &Path, user: &str, password: &str) -> Result<Self> {
        std::fs::create_dir_all(directory)?;
        openssl(
            directory,
            "req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -subj /CN=issuer -days 2",
            b"",
        )?;
        openssl(
            directory,
            "x509 -in cert.pem -outform DER -out cert.der",
            b"",
        )?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let addr = listener.local_addr()?;
        let (over, given): (Arc<AtomicBool>, Arc<AtomicUsize>) = Default::default();
        let expected = BASE64_STANDARD.encode(format!("{user}:{password}"));
        let (ends, count, files) = (Arc::clone(&over), Arc::clone(&given), directory.to_owned());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if ends.load(Ordering::SeqCst) {
                    return;
                }
                // A client that breaks off is its own matter.
                if let Ok(true) = answer(stream, &files, &expected) {
                    count.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
        Ok(Self {
            addr,
            directory: directory.to_owned(),
            over,
            given,
        })
    }

    /// The `realm` of a registry that trusts it.
    #[must_use]
    pub fn realm(&self) -> String {
        format!("http://{}/token", self.addr)
    }

    /// The certificate by which its tokens are checked.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.directory.join("cert.pem")
    }

    /// How many tokens it gave.
    #[must_use]
    pub fn given(&self) -> usize {
        self.given.load(Ordering::SeqCst)
    }
}

impl Drop for TokenServer {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        // Wakes the thread; if that fails it has ended.
        let _woken = TcpStream::connect(self.addr);
    }
}

/// `true` if it gave a token.
fn answer(mut stream: TcpStream, files: &Path, expected: &str) -> Result<bool> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().context("nothing asked")??;
    let mut known = false;
    for line in lines {
        let line = line?;
        if line.is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("authorization")
        {
            known = value.trim().strip_prefix("Basic ") == Some(expected);
        }
    }
    let target = first.split(' ').nth(1).context("no target")?;
    let (status, body) = match known {
        true => (
            "200 OK",
            json!({"token": token(files, target)?, "expires_in": 300}),
        ),
        false => ("401 Unauthorized", json!({"details": "unknown user"})),
    };
    let body = body.to_string();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    )?;
    Ok(known)
}

/// A token for all that the query asks for (RFC 7519, signed as RS256).
fn token(files: &Path, target: &str) -> Result<String> {
    let query = target.split_once('?').map_or("", |(_, query)| query);
    let scopes = query
        .split('&')
        .filter_map(|pair| pair.strip_prefix("scope="));
    let access: Vec<Value> = scopes
        .filter_map(|scope| {
            let scope = scope
                .replace("%3A", ":")
                .replace("%2F", "/")
                .replace("%2C", ",");
            let mut parts = scope.splitn(3, ':').map(str::to_owned);
            let (kind, name, actions) = (parts.next()?, parts.next()?, parts.next()?);
            let actions: Vec<_> = actions.split(',').collect();
            Some(json!({"type": kind, "name": name, "actions": actions}))
        })
        .collect();
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let certificate = BASE64_STANDARD.encode(std::fs::read(files.join("cert.der"))?);
    let header = json!({"typ": "JWT", "alg": "RS256", "x5c": [certificate]});
    let claims = json!({"iss": "issuer", "sub": "user", "aud": "registry", "jti": now.to_string(),
        "iat": now, "nbf": now - 10, "exp": now + 300, "access": access});
    let part = |value: Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(header), part(claims));
    let text = tempfile::NamedTempFile::new_in(files)?;
    std::fs::write(text.path(), &signed)?;
    let sign = format!("dgst -sha256 -sign key.pem {}", text.path().display());
    let signature = BASE64_URL_SAFE_NO_PAD.encode(openssl(files, &sign, b"")?);
    Ok(format!("{signed}.{signature}"))
}
