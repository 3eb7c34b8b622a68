//! The streaming server's options, from `[crio.api]`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use config::Settings;

const SECTION: &str = "crio.api";

/// Listens where the configuration says.
pub(crate) async fn bind(settings: &Settings) -> Result<streaming::Server> {
    let options = streaming::Options {
        address: address(settings)?,
        idle: match settings.duration(SECTION, "stream_idle_timeout") {
            Duration::ZERO => streaming::limits::IDLE,
            idle => idle.min(streaming::limits::LONGEST_IDLE),
        },
        tls: tls(settings)?,
    };
    let server = streaming::Server::bind(options).await;
    server.context("streaming server")
}

fn address(settings: &Settings) -> Result<SocketAddr> {
    // As CRI-O: what is no address, a name too, is all addresses.
    let address = settings.text(SECTION, "stream_address").parse();
    let address = address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let port = match settings.text(SECTION, "stream_port") {
        "" => 0,
        port => port.parse().map_err(|_| {
            let text = format!("{port:?} is no port");
            settings.wrong(SECTION, "stream_port", text)
        })?,
    };
    Ok(SocketAddr::new(address, port))
}

/// The oldest version of TLS that any server of ours speaks.
pub(crate) fn minimum(settings: &Settings) -> Result<streaming::TlsVersion> {
    let minimum = settings.text(SECTION, "tls_min_version").parse();
    let minimum = minimum.map_err(|error: streaming::TlsError| {
        settings.wrong(SECTION, "tls_min_version", error.to_string())
    })?;
    Ok(minimum)
}

fn tls(settings: &Settings) -> Result<Option<streaming::TlsOptions>> {
    // Told also where it has no effect yet: a wrong value does not wait for somebody to switch TLS on.
    let minimum = minimum(settings)?;
    if !settings.bool(SECTION, "stream_enable_tls") {
        return Ok(None);
    }
    let file =
        |key: &str| Some(settings.path(SECTION, key)).filter(|path| !path.as_os_str().is_empty());
    let needed =
        |key: &str| file(key).ok_or_else(|| anyhow!("stream_enable_tls is set, and {key} is not"));
    Ok(Some(streaming::TlsOptions {
        certificate: needed("stream_tls_cert")?,
        key: needed("stream_tls_key")?,
        client_ca: file("stream_tls_ca"),
        minimum,
        ciphers: settings.list(SECTION, "tls_cipher_suites").to_vec(),
    }))
}
