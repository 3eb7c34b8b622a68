//! The one HTTP request of a connection: which session it is for, and in which protocol.

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming as Body;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::server::Session;
use crate::session::StatusForm;
use crate::websocket::{self, Protocol};

/// Versions of the protocol of processes over SPDY, the best first; the oldest may go unnamed.
const REMOTE: [&str; 4] = [
    "v4.channel.k8s.io",
    "v3.channel.k8s.io",
    "v2.channel.k8s.io",
    "channel.k8s.io",
];
/// That of ports over SPDY.
const FORWARD: [&str; 1] = ["portforward.k8s.io"];
/// The same with SPDY inside of WebSocket.
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

/// What a connection carries after its upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Carrier {
    /// Streams.
    Spdy {
        /// How an end is told.
        form: StatusForm,
        /// Whether there is a stream for the terminal's size.
        resizes: bool,
    },
    /// Channels.
    WebSocket(Protocol),
    /// Streams inside of a WebSocket.
    Tunnel,
}

/// A request that is no good.
#[derive(Debug)]
pub(crate) struct Refused {
    status: StatusCode,
    text: String,
}

impl Refused {
    pub(crate) fn new(status: StatusCode, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { status, text }
    }

    pub(crate) fn response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(Bytes::from(self.text + "\n")));
        *response.status_mut() = self.status;
        let kind = header::HeaderValue::from_static("text/plain; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        // A connection has one request.
        let close = header::HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
        response
    }
}

/// The kind of session and the token in a path: `/exec/TOKEN` and the like.
pub(crate) fn token(request: &Request<Body>) -> Result<(&str, &str), Refused> {
    if !matches!(*request.method(), Method::GET | Method::POST) {
        let text = "only GET and POST are possible";
        return Err(Refused::new(StatusCode::METHOD_NOT_ALLOWED, text));
    }
    let path = request.uri().path().strip_prefix('/').unwrap_or_default();
    path.split_once('/')
        .filter(|(_, token)| !token.is_empty() && !token.contains('/'))
        .ok_or_else(unknown)
}

/// There is nothing there, or not any more.
pub(crate) fn unknown() -> Refused {
    Refused::new(StatusCode::NOT_FOUND, "404: Page Not Found")
}

/// Agrees on a protocol: what to speak, and the answer that says so.
pub(crate) fn agree(
    headers: &HeaderMap,
    session: &Session,
) -> Result<(Carrier, Response<Full<Bytes>>), Refused> {
    let forwards = matches!(session, Session::Forward(_));
    if has(headers, "upgrade", "websocket") {
        let key = headers.get("sec-websocket-key");
        let key = key.filter(|_| has(headers, "sec-websocket-version", "13"));
        let Some(key) = key else {
            let text = "only version 13 of WebSocket is possible";
            return Err(Refused::new(StatusCode::UPGRADE_REQUIRED, text));
        };
        let accept = derive_accept_key(key.as_bytes());
        let (carrier, name) = agree_on_channels(headers, forwards)?;
        let mut answer = switching("websocket").header("Sec-WebSocket-Accept", accept);
        if !name.is_empty() {
            answer = answer.header("Sec-WebSocket-Protocol", name);
        }
        return Ok((carrier, finish(answer)));
    }
    if has(headers, "upgrade", "spdy/3.1") && has(headers, "connection", "upgrade") {
        let known: &[&str] = if forwards { &FORWARD } else { &REMOTE };
        let asked = list(headers, "x-stream-protocol-version");
        let asked: Vec<_> = asked.collect();
        let chosen = known.iter().find(|name| asked.contains(*name));
        let chosen = match (chosen, asked.is_empty()) {
            (Some(name), _) => *name,
            (None, true) if forwards => FORWARD[0],
            (None, true) => "",
            (None, false) => {
                let text = format!("unable to upgrade: none of {known:?} is asked for");
                return Err(Refused::new(StatusCode::FORBIDDEN, text));
            }
        };
        let carrier = Carrier::Spdy {
            form: match chosen {
                "v4.channel.k8s.io" => StatusForm::Json,
                _ => StatusForm::Text,
            },
            resizes: matches!(chosen, "v4.channel.k8s.io" | "v3.channel.k8s.io"),
        };
        let mut answer = switching("SPDY/3.1");
        if !chosen.is_empty() {
            answer = answer.header("X-Stream-Protocol-Version", chosen);
        }
        return Ok((carrier, finish(answer)));
    }
    let text = "unable to upgrade: neither SPDY/3.1 nor WebSocket is asked for";
    Err(Refused::new(StatusCode::BAD_REQUEST, text))
}

fn agree_on_channels(
    headers: &HeaderMap,
    forwards: bool,
) -> Result<(Carrier, &'static str), Refused> {
    let asked: Vec<_> = list(headers, "sec-websocket-protocol").collect();
    if forwards && asked.contains(&TUNNEL) {
        return Ok((Carrier::Tunnel, TUNNEL));
    }
    let known = if forwards {
        websocket::FORWARD
    } else {
        websocket::REMOTE
    };
    let Some(protocol) = websocket::choose(known, asked.iter().copied()) else {
        let text = format!("none of the protocols {asked:?} is spoken");
        return Err(Refused::new(StatusCode::FORBIDDEN, text));
    };
    Ok((Carrier::WebSocket(protocol), protocol.name))
}

fn switching(to: &'static str) -> http::response::Builder {
    Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, to)
}

fn finish(answer: http::response::Builder) -> Response<Full<Bytes>> {
    let answer = answer.body(Full::new(Bytes::new()));
    answer.expect("the headers are ours: constants and base64")
}

/// Values of a header, which may come on several lines and several on one.
fn list<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(name).into_iter();
    let lines = lines.filter_map(|line| line.to_str().ok());
    lines
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .filter(|value| !value.is_empty())
}

fn has(headers: &HeaderMap, name: &str, value: &str) -> bool {
    list(headers, name).any(|found| found.eq_ignore_ascii_case(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Exec, Forward, Wanted};

    fn exec() -> Session {
        Session::Exec(Exec {
            container: "c".into(),
            command: vec!["x".into()],
            wanted: Wanted {
                stdin: true,
                stdout: true,
                stderr: false,
                tty: true,
            },
        })
    }

    fn forward() -> Session {
        Session::Forward(Forward {
            pod: "p".into(),
            ports: vec![],
        })
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| {
            let name: header::HeaderName = name.parse().unwrap();
            (name, header::HeaderValue::from_static(value))
        });
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name, value);
        }
        headers
    }

    const SPDY: [(&str, &str); 2] = [("connection", "Upgrade"), ("upgrade", "SPDY/3.1")];
    const WEBSOCKET: [(&str, &str); 4] = [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    #[test]
    fn the_best_version_of_spdy_is_agreed_on() {
        for (asked, session, agreed) in [
            (
                &["channel.k8s.io", "v4.channel.k8s.io, v3.channel.k8s.io"][..],
                exec(),
                Some(Some("v4.channel.k8s.io")),
            ),
            (
                &["v2.channel.k8s.io"],
                exec(),
                Some(Some("v2.channel.k8s.io")),
            ),
            (&[], exec(), Some(None)),
            (&["v9.channel.k8s.io"], exec(), None),
            (
                &["portforward.k8s.io"],
                forward(),
                Some(Some("portforward.k8s.io")),
            ),
            (&["v4.channel.k8s.io"], forward(), None),
        ] {
            let mut pairs = SPDY.to_vec();
            pairs.extend(
                asked
                    .iter()
                    .map(|name| ("x-stream-protocol-version", *name)),
            );
            let answer = agree(&headers(&pairs), &session).ok();
            let name = answer.map(|(_, answer)| {
                let name = answer.headers().get("x-stream-protocol-version");
                name.map(|name| name.to_str().unwrap().to_owned())
            });
            assert_eq!(
                name,
                agreed.map(|name| name.map(str::to_owned)),
                "{asked:?}"
            );
        }
    }

    #[test]
    fn websocket_is_answered_as_its_rfc_says() {
        for (asked, session, carried) in [
            ("v5.channel.k8s.io", exec(), true),
            ("SPDY/3.1+portforward.k8s.io", forward(), true),
            ("v4.channel.k8s.io", forward(), true),
            ("SPDY/3.1+portforward.k8s.io", exec(), false),
        ] {
            let mut pairs = WEBSOCKET.to_vec();
            pairs.push(("sec-websocket-protocol", asked));
            let agreed = agree(&headers(&pairs), &session);
            assert_eq!(agreed.is_ok(), carried, "{asked}");
            if let Ok((_, answer)) = agreed {
                let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
                assert_eq!(
                    header("sec-websocket-accept"),
                    "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
                );
                assert_eq!(header("sec-websocket-protocol"), asked);
            }
        }
    }

    #[test]
    fn what_is_no_upgrade_is_refused() {
        for (pairs, status) in [
            (&[][..], StatusCode::BAD_REQUEST),
            (&SPDY[1..], StatusCode::BAD_REQUEST),
            (&WEBSOCKET[..2], StatusCode::UPGRADE_REQUIRED),
        ] {
            let refused = agree(&headers(pairs), &exec()).unwrap_err();
            assert_eq!(refused.status, status, "{pairs:?}");
        }
    }
}
