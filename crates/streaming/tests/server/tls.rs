//! TLS of the streaming server: a real listener, certificates made by openssl, a rustls client.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion, version};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use streaming::{Options, Promises, TlsOptions, TlsVersion};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::{promise, streaming};

/// An authority in `dir/name.pem`, or a certificate that `by` has signed, with its key.
fn certificate(dir: &Path, name: &str, by: Option<&str>) {
    let path = |name: &str, end: &str| dir.join(format!("{name}.{end}")).display().to_string();
    let (key, pem) = (path(name, "key"), path(name, "pem"));
    let subject = format!("/CN={name}");
    let mut args: Vec<String> = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj"
        .split(' ')
        .map(str::to_owned)
        .collect();
    args.extend([subject, "-keyout".into(), key, "-out".into(), pem]);
    if let Some(by) = by {
        let more = [
            "-CA".into(),
            path(by, "pem"),
            "-CAkey".into(),
            path(by, "key"),
        ];
        args.extend(more);
        let names = [
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-addext",
            "basicConstraints=CA:FALSE",
        ];
        args.extend(names.map(str::to_owned));
    }
    let program = sys::spawn::Program::new("/usr/bin/openssl", Duration::from_secs(60)).args(args);
    let made = sys::spawn::run(&program).unwrap();
    let words = String::from_utf8_lossy(&made.stderr).into_owned();
    assert!(made.status.success(), "{words}");
}

fn certificates(path: &Path) -> Vec<CertificateDer<'static>> {
    let found = CertificateDer::pem_file_iter(path).unwrap();
    found.map(Result::unwrap).collect()
}

/// What a client gets that claims a session: the answer's first line, or why there is none.
async fn ask(
    (host, path): (String, String),
    trust: &Path,
    own: Option<&Path>,
    versions: &[&'static SupportedProtocolVersion],
) -> Result<String, std::io::Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(trust) {
        roots.add(certificate).unwrap();
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    let config = match own {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let key = PrivateKeyDer::from_pem_file(path.with_extension("key")).unwrap();
            let chain = certificates(path);
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    let socket = TcpStream::connect(host).await?;
    let name = ServerName::from(socket.peer_addr()?.ip());
    let mut socket = TlsConnector::from(Arc::new(config))
        .connect(name, socket)
        .await?;
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).await?;
    let mut answer = [0; 12];
    socket.read_exact(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// A server with TLS.
async fn serve(options: TlsOptions) -> Promises {
    crate::serve(Options {
        address: "127.0.0.1:0".parse().unwrap(),
        idle: Duration::from_secs(60),
        tls: Some(options),
    })
    .await
}

const BOTH: [&SupportedProtocolVersion; 2] = [&version::TLS12, &version::TLS13];

#[tokio::test]
async fn a_certificate_may_be_replaced_while_it_serves() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name);
    certificate(dir.path(), "ca", None);
    certificate(dir.path(), "other-ca", None);
    certificate(dir.path(), "server", Some("ca"));
    let options = TlsOptions {
        certificate: file("server.pem"),
        key: file("server.key"),
        client_ca: None,
        minimum: TlsVersion::Tls12,
        ciphers: vec![],
    };
    let promises = serve(options).await;
    let ca = file("ca.pem");
    let answer = ask(promise(&promises), &ca, None, &BOTH).await.unwrap();
    assert_eq!(answer, "HTTP/1.1 101");
    let bogus = (promise(&promises).0, "/exec/bogus".to_owned());
    let answer = ask(bogus, &ca, None, &BOTH).await.unwrap();
    assert_eq!(answer, "HTTP/1.1 404");

    // Half of it: key and certificate do not fit, and the old ones go on.
    std::fs::write(file("server.key"), "nonsense").unwrap();
    let answer = ask(promise(&promises), &ca, None, &BOTH).await.unwrap();
    assert_eq!(answer, "HTTP/1.1 101");

    certificate(dir.path(), "server", Some("other-ca"));
    assert!(ask(promise(&promises), &ca, None, &BOTH).await.is_err());
    let other = file("other-ca.pem");
    let answer = ask(promise(&promises), &other, None, &BOTH).await.unwrap();
    assert_eq!(answer, "HTTP/1.1 101");
}

#[tokio::test]
async fn clients_need_a_certificate_and_a_version_where_that_is_configured() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name);
    certificate(dir.path(), "ca", None);
    certificate(dir.path(), "server", Some("ca"));
    certificate(dir.path(), "client-ca", None);
    certificate(dir.path(), "client", Some("client-ca"));
    let options = TlsOptions {
        certificate: file("server.pem"),
        key: file("server.key"),
        client_ca: Some(file("client-ca.pem")),
        minimum: TlsVersion::Tls13,
        ciphers: vec!["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256".to_owned()],
    };
    let promises = serve(options).await;
    let (ca, client, server) = (file("ca.pem"), file("client.pem"), file("server.pem"));
    for (own, versions, good) in [
        (Some(&client), &BOTH[..], true),
        (None, &BOTH, false),
        (Some(&server), &BOTH, false),
        (Some(&client), &BOTH[..1], false),
    ] {
        let own = own.map(|path| path.as_path());
        let answer = ask(promise(&promises), &ca, own, versions).await;
        assert_eq!(answer.is_ok(), good, "{own:?} {versions:?}: {answer:?}");
    }
}
