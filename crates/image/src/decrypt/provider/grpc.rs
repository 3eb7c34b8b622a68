//! A key provider that is a service: one call of gRPC over a connection of its own, without TLS.
//!
//! The messages have one field each, so they are read and written by hand. Source: ocicrypt,
//! `utils/keyprovider/keyprovider.proto`; gRPC, `PROTOCOL-HTTP2.md`.

use std::io;

use bytes::Bytes;
use http::{Request, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpStream, UnixStream};

use super::TIMEOUT;
use crate::limits;

const METHOD: &str = "/keyprovider.KeyProviderService/UnWrapKey";
/// Of the only field of either message: 1, with a length.
const FIELD: u8 = 0x0a;
/// Before a message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// Asks the service at `host:port` or `unix:PATH` to unwrap what a document says; its answer. Blocks.
pub(super) fn unwrap(address: &str, document: &[u8]) -> Result<Vec<u8>, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let asking = async { tokio::time::timeout(TIMEOUT, ask(address, document)).await };
    let answer = runtime.block_on(asking);
    answer.unwrap_or_else(|_| Err(format!("no answer within {TIMEOUT:?}")))
}

async fn ask(address: &str, document: &[u8]) -> Result<Vec<u8>, String> {
    let connect = |error: io::Error| format!("connect to {address}: {error}");
    let (mut send, connection) = match address.strip_prefix("unix:") {
        Some(path) => {
            let path = path.strip_prefix("//").unwrap_or(path);
            let stream = UnixStream::connect(path).await.map_err(connect)?;
            let (send, connection) = handshake(stream).await?;
            (send, tokio::spawn(connection))
        }
        None => {
            let stream = TcpStream::connect(address).await.map_err(connect)?;
            let (send, connection) = handshake(stream).await?;
            (send, tokio::spawn(connection))
        }
    };
    let authority = match address.starts_with("unix:") {
        true => "localhost",
        false => address,
    };
    let uri = Uri::builder().scheme("http").authority(authority);
    let uri = uri.path_and_query(METHOD).build();
    let request = Request::post(uri.map_err(|error| error.to_string())?)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(Bytes::from(encode(document))))
        .map_err(|error| error.to_string())?;
    let answer = send.send_request(request).await;
    let answer = answer.map_err(|error| error.to_string())?;
    let (head, body) = answer.into_parts();
    let body = Limited::new(body, limits::KEY_ANSWER_BYTES).collect().await;
    connection.abort();
    let body = body.map_err(|error| error.to_string())?;
    // An answer without a message has its status among the headers.
    let trailers = body.trailers().unwrap_or(&head.headers);
    let said = |name: &str| trailers.get(name).and_then(|value| value.to_str().ok());
    if head.status != http::StatusCode::OK || said("grpc-status") != Some("0") {
        let (status, words) = (said("grpc-status"), said("grpc-message"));
        let (status, words) = (status.unwrap_or("none"), words.unwrap_or_default());
        return Err(format!("{}, status {status}: {words}", head.status));
    }
    decode(&body.to_bytes()).ok_or_else(|| "no answer that is understood".to_owned())
}

type Handshake<S> = http2::Connection<TokioIo<S>, Full<Bytes>, TokioExecutor>;

async fn handshake<S>(stream: S) -> Result<(http2::SendRequest<Full<Bytes>>, Handshake<S>), String>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let begun = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    begun.map_err(|error| error.to_string())
}

/// A message with that value, as a call sends it.
pub(crate) fn encode(value: &[u8]) -> Vec<u8> {
    let mut message = vec![FIELD];
    let mut left = value.len();
    loop {
        let seven = u8::try_from(left & 0x7f).unwrap_or_default();
        left >>= 7;
        if left == 0 {
            message.push(seven);
            break;
        }
        message.push(seven | 0x80);
    }
    message.extend_from_slice(value);
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    [&[0][..], &length.to_be_bytes(), &message].concat()
}

/// The value of a message that is a whole answer; `None` if it is not what we expect.
pub(crate) fn decode(answer: &[u8]) -> Option<Vec<u8>> {
    let (prefix, message) = answer.split_at_checked(PREFIX)?;
    let (compressed, length) = prefix.split_first()?;
    let length = u32::from_be_bytes(length.try_into().ok()?);
    if *compressed != 0 || usize::try_from(length) != Ok(message.len()) {
        return None;
    }
    let (field, mut rest) = message.split_first()?;
    if *field != FIELD {
        return None;
    }
    let mut length = 0_usize;
    for shift in (0..28).step_by(7) {
        let (byte, further) = rest.split_first()?;
        rest = further;
        length |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return (rest.len() == length).then(|| rest.to_vec());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use http::{HeaderMap, Response};
    use http_body_util::StreamBody;
    use hyper::body::{Frame, Incoming};
    use hyper::service::service_fn;
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn messages_are_read_as_they_are_written() {
        for length in [0, 1, 127, 128, 300, 20_000] {
            let value = vec![7; length];
            let encoded = encode(&value);
            assert_eq!(decode(&encoded), Some(value), "{length}");
            for cut in [0, 4, 5, 6, encoded.len() - 1] {
                let cut = encoded.get(..cut).unwrap();
                assert_eq!(decode(cut), None, "{length}");
            }
        }
        for bad in [
            &[1, 0, 0, 0, 2, 0x0a, 0][..],
            &[0, 0, 0, 0, 2, 0x12, 0],
            &[0, 0, 0, 0, 3, 0x0a, 0, 0],
            &[0, 0, 0, 0, 7, 0x0a, 0x80, 0x80, 0x80, 0x80, 0x80, 0],
            &[0xff; 9],
        ] {
            assert_eq!(decode(bad), None, "{bad:?}");
        }
    }

    async fn answer(
        request: Request<Incoming>,
    ) -> Result<Response<impl hyper::body::Body<Data = Bytes, Error = io::Error>>, io::Error> {
        assert_eq!(request.uri().path(), METHOD);
        assert_eq!(request.headers()["content-type"], "application/grpc");
        let asked = request.into_body().collect().await.unwrap().to_bytes();
        let asked = decode(&asked).unwrap();
        let (status, message) = match &asked[..] {
            b"good" => ("0", encode(b"opened")),
            b"odd" => ("0", b"odd".to_vec()),
            document if document.starts_with(b"{") => {
                let document: serde_json::Value = serde_json::from_slice(document).unwrap();
                assert_eq!(document["op"], "keyunwrap");
                assert_eq!(document["keyunwrapparams"]["annotation"], "d3JhcHBlZA==");
                let results = br#"{"keyunwrapresults":{"optsdata":"b3BlbmVk"}}"#;
                ("0", encode(results))
            }
            b"large" => ("0", encode(&vec![0; limits::KEY_ANSWER_BYTES])),
            _ => ("7", Vec::new()),
        };
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", status.parse().unwrap());
        trailers.insert("grpc-message", "not for you".parse().unwrap());
        let frames = [Frame::data(Bytes::from(message)), Frame::trailers(trailers)];
        let frames = frames.map(Ok::<_, io::Error>);
        Ok(Response::new(StreamBody::new(futures_util::stream::iter(
            frames,
        ))))
    }

    /// Serves on a thread of its own until the process ends.
    fn serve(listen: impl FnOnce() -> Listener + Send + 'static) {
        let (ready, started) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = { runtime }.enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = listen();
                ready.send(()).unwrap();
                loop {
                    let service = service_fn(answer);
                    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    // A client that goes away ends its connection.
                    match &listener {
                        Listener::Tcp(listener) => {
                            let stream = listener.accept().await.unwrap().0;
                            drop(server.serve_connection(TokioIo::new(stream), service).await);
                        }
                        Listener::Unix(listener) => {
                            let stream = listener.accept().await.unwrap().0;
                            drop(server.serve_connection(TokioIo::new(stream), service).await);
                        }
                    }
                }
            });
        });
        started.recv().unwrap();
    }

    enum Listener {
        Tcp(TcpListener),
        Unix(tokio::net::UnixListener),
    }

    #[test]
    fn a_service_unwraps_or_says_why_not() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap().to_string();
        socket.set_nonblocking(true).unwrap();
        serve(move || Listener::Tcp(TcpListener::from_std(socket).unwrap()));
        let dir = tempfile::tempdir().unwrap();
        let path: PathBuf = dir.path().join("socket");
        let at = path.clone();
        serve(move || Listener::Unix(tokio::net::UnixListener::bind(at).unwrap()));
        let unix = format!("unix://{}", path.display());
        for address in [address.as_str(), &unix] {
            assert_eq!(unwrap(address, b"good").unwrap(), b"opened");
            for (asked, words) in [
                (&b"odd"[..], "no answer that is understood"),
                (b"large", "limit exceeded"),
                (b"bad", "status 7: not for you"),
            ] {
                let error = unwrap(address, asked).unwrap_err();
                assert!(error.contains(words), "{error}");
            }
        }
        let config = dir.path().join("config.json");
        let text = serde_json::json!({"key-providers": {"service": {"grpc": address}}});
        std::fs::write(&config, text.to_string()).unwrap();
        let providers = super::super::Providers::load(Some(&config)).unwrap();
        assert_eq!(providers.unwrap("service", b"wrapped").unwrap(), b"opened");
        let error = unwrap("127.0.0.1:1", b"good").unwrap_err();
        assert!(error.contains("connect to 127.0.0.1:1"), "{error}");
    }
}
