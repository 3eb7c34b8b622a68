//! A registry that does what a test wants: one thread per connection, one closure for all.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::image_maker::MadeImage;

/// What a client asked.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self
            .headers
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

/// What it gets.
pub(crate) enum Reply {
    /// Status, headers, body.
    Full(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// As much of a body of that length, then the connection ends.
    Cut(u16, Vec<(&'static str, String)>, Vec<u8>, usize),
    /// As much of a body of that length, then nothing for ever.
    Stall(Vec<u8>, usize),
    /// As [`Reply::Full`], at some ten megabytes per second.
    Slow(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// A body of that length, a byte every ten milliseconds.
    Trickle(Vec<u8>),
    /// A body that never ends.
    Endless,
    /// Not even headers.
    Hang,
}

impl Reply {
    pub(crate) fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self::Full(200, Vec::new(), body.into())
    }

    pub(crate) fn status(status: u16) -> Self {
        Self::Full(status, Vec::new(), Vec::new())
    }
}

type Handler = dyn Fn(&Asked) -> Reply + Send + Sync;

/// The server; its threads end with it.
pub(crate) struct Fake {
    addr: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    over: Arc<AtomicBool>,
}

impl Fake {
    pub(crate) fn start(handler: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_with(None, handler)
    }

    /// With TLS, by files of PEM.
    pub(crate) fn start_tls(
        certificate: &Path,
        key: &Path,
        handler: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let chain = CertificateDer::pem_file_iter(certificate).unwrap();
        let key = PrivateKeyDer::from_pem_file(key).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain.map(Result::unwrap).collect(), key)
            .unwrap();
        Self::start_with(Some(Arc::new(config)), handler)
    }

    fn start_with(
        tls: Option<Arc<ServerConfig>>,
        handler: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let handler: Arc<Handler> = Arc::new(handler);
        let (asked, over): (Arc<Mutex<Vec<Asked>>>, Arc<AtomicBool>) = Default::default();
        let (log, ends) = (Arc::clone(&asked), Arc::clone(&over));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if ends.load(Ordering::SeqCst) {
                    return;
                }
                let (handler, log, ends) =
                    (Arc::clone(&handler), Arc::clone(&log), Arc::clone(&ends));
                let tls = tls.clone();
                thread::spawn(move || match tls {
                    None => serve(stream, &*handler, &log, &ends),
                    Some(config) => {
                        let session = ServerConnection::new(config).unwrap();
                        let stream = StreamOwned::new(session, stream);
                        serve(stream, &*handler, &log, &ends);
                    }
                });
            }
        });
        Self { addr, asked, over }
    }

    /// `127.0.0.1:port`.
    pub(crate) fn host(&self) -> String {
        self.addr.to_string()
    }

    pub(crate) fn conf(&self) -> String {
        format!(
            "[[registry]]\nlocation = \"{}\"\ninsecure = true\n",
            self.addr
        )
    }

    pub(crate) fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.addr)
    }

    /// What was asked, in order.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// How often a path with that part was asked for.
    pub(crate) fn count(&self, part: &str) -> usize {
        self.asked()
            .iter()
            .filter(|asked| asked.path.contains(part))
            .count()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        // Wakes the accepting thread; if that fails it has ended.
        let _woken = TcpStream::connect(self.addr);
    }
}

/// Answers for an image as a good registry does.
pub(crate) fn image(image: &MadeImage, asked: &Asked) -> Reply {
    if asked.path.contains("/manifests/") {
        let kind = ("Content-Type", image.media_type().to_owned());
        return Reply::Full(200, vec![kind], image.manifest().to_vec());
    }
    let blobs = image.layers().iter().chain([image.config()]);
    for blob in blobs {
        if asked.path.ends_with(blob.digest()) {
            return Reply::ok(blob.bytes());
        }
    }
    Reply::status(404)
}

/// With TLS or without.
trait Stream: Read + Write {
    fn socket(&self) -> &TcpStream;
}

impl Stream for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }
}

impl Stream for StreamOwned<ServerConnection, TcpStream> {
    fn socket(&self) -> &TcpStream {
        &self.sock
    }
}

fn serve(stream: impl Stream, handler: &Handler, log: &Mutex<Vec<Asked>>, over: &AtomicBool) {
    let mut reader = BufReader::new(stream);
    while let Some(asked) = read(&mut reader) {
        log.lock().unwrap().push(asked.clone());
        let reply = handler(&asked);
        if answer(reader.get_mut(), reply, over).is_none() {
            return;
        }
    }
}

fn read(reader: &mut BufReader<impl Stream>) -> Option<Asked> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next()?, words.next()?);
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
    let mut asked = Asked {
        method,
        path,
        headers,
        body: String::new(),
    };
    let length = asked
        .header("content-length")
        .map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    asked.body = String::from_utf8(body).ok()?;
    Some(asked)
}

/// `None` if the connection ends.
fn answer(stream: &mut impl Stream, reply: Reply, over: &AtomicBool) -> Option<()> {
    let head = |status: u16, headers: &[(&str, String)], length: usize| {
        let mut head = format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head + "\r\n"
    };
    match reply {
        Reply::Full(status, headers, body) => {
            stream
                .write_all(head(status, &headers, body.len()).as_bytes())
                .ok()?;
            stream.write_all(&body).ok()
        }
        Reply::Slow(status, headers, body) => {
            stream
                .write_all(head(status, &headers, body.len()).as_bytes())
                .ok()?;
            for piece in body.chunks(32 << 10) {
                stream.write_all(piece).ok()?;
                #[allow(
                    clippy::disallowed_methods,
                    reason = "a slow network is what is tested"
                )]
                thread::sleep(Duration::from_millis(3));
            }
            Some(())
        }
        Reply::Cut(status, headers, body, length) => {
            stream
                .write_all(head(status, &headers, length).as_bytes())
                .ok()?;
            stream.write_all(&body).ok()?;
            None
        }
        Reply::Stall(body, length) => {
            stream.write_all(head(200, &[], length).as_bytes()).ok()?;
            stream.write_all(&body).ok()?;
            wait(stream, over)
        }
        Reply::Trickle(body) => {
            stream
                .write_all(head(200, &[], body.len()).as_bytes())
                .ok()?;
            for byte in body {
                if over.load(Ordering::SeqCst) {
                    return None;
                }
                stream.write_all(&[byte]).ok()?;
                #[allow(
                    clippy::disallowed_methods,
                    reason = "a slow network is what is tested"
                )]
                thread::sleep(Duration::from_millis(10));
            }
            Some(())
        }
        Reply::Endless => {
            stream
                .write_all(b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n")
                .ok()?;
            while !over.load(Ordering::SeqCst) {
                stream
                    .write_all(format!("1000\r\n{}\r\n", "x".repeat(0x1000)).as_bytes())
                    .ok()?;
            }
            None
        }
        Reply::Hang => wait(stream, over),
    }
}

/// Until the client or the test has gone.
fn wait(stream: &mut impl Stream, over: &AtomicBool) -> Option<()> {
    stream
        .socket()
        .set_read_timeout(Some(Duration::from_millis(200)))
        .ok()?;
    while !over.load(Ordering::SeqCst) {
        match stream.read(&mut [0; 64]) {
            Ok(0) => return None,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return None,
        }
    }
    None
}
