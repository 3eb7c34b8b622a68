//! A pair of certificate and key for a node that was given the places of one and none there.
//!
//! The certificate (RFC 5280) is signed by its own key, of P-256, and is for the node's name for a
//! year: a client that wants to know whom it speaks to trusts this one certificate.

use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{Error, wrong};

/// How long it is good.
const LIFE: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// It is good from a while ago: clocks differ.
const BEFORE: Duration = Duration::from_secs(60 * 60);

/// Makes a pair for `host` where neither of the files is there. Blocks.
///
/// # Errors
/// They can't be written.
pub fn make_if_missing(certificate: &Path, key: &Path, host: &str) -> Result<bool, Error> {
    for path in [certificate, key] {
        match path.try_exists() {
            Ok(false) => {}
            Ok(true) => return Ok(false),
            Err(error) => return Err(wrong(path, &error)),
        }
    }
    let made = Pair::make(host, SystemTime::now()).map_err(|error| wrong(certificate, &error))?;
    for (path, text) in [(key, made.key), (certificate, made.certificate)] {
        let dir = path.parent().unwrap_or(Path::new("/"));
        let written = make_dir(dir)
            .and_then(|()| sys::durable::replace_volatile(path, text.as_bytes(), 0o600));
        written.map_err(|error| wrong(path, &error))?;
    }
    Ok(true)
}

fn make_dir(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
}

/// Both as PEM.
struct Pair {
    certificate: String,
    key: String,
}

impl Pair {
    fn make(host: &str, now: SystemTime) -> io::Result<Self> {
        let failed = |what: &'static str| move |_| io::Error::other(what);
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_ASN1_SIGNING;
        let key = EcdsaKeyPair::generate_pkcs8(algorithm, &random)
            .map_err(failed("no key could be made"))?;
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, key.as_ref())
            .map_err(|_| io::Error::other("the key is none"))?;
        let unsigned = unsigned(host, pair.public_key().as_ref(), now);
        let signature = pair
            .sign(&random, &unsigned)
            .map_err(failed("nothing could be signed"))?;
        let certificate = sequence(&[
            unsigned,
            signature_algorithm(),
            bit_string(signature.as_ref()),
        ]);
        Ok(Self {
            certificate: pem("CERTIFICATE", &certificate),
            key: pem("PRIVATE KEY", key.as_ref()),
        })
    }
}

/// `TBSCertificate` of RFC 5280, 4.1.
fn unsigned(host: &str, public_key: &[u8], now: SystemTime) -> Vec<u8> {
    let mut serial = sys::random::bytes::<16>();
    // A positive number of sixteen bytes.
    if let Some(first) = serial.first_mut() {
        *first = *first & 0x7f | 0x40;
    }
    let name = name(host);
    let validity = sequence(&[time(now - BEFORE), time(now - BEFORE + LIFE)]);
    let key_algorithm = sequence(&[
        // ecPublicKey, prime256v1 (RFC 5480).
        element(0x06, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01]),
        element(0x06, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07]),
    ]);
    sequence(&[
        // Version 3.
        element(0xa0, &element(0x02, &[2])),
        element(0x02, &serial),
        signature_algorithm(),
        name.clone(),
        validity,
        name,
        sequence(&[key_algorithm, bit_string(public_key)]),
        element(0xa3, &extensions(host)),
    ])
}

/// What it is for: digital signatures of a server of that name.
fn extensions(host: &str) -> Vec<u8> {
    // subjectAltName, keyUsage, extKeyUsage: 2.5.29.17, .15, .37.
    let extension = |last: u8, value: &[u8]| {
        sequence(&[element(0x06, &[0x55, 0x1d, last]), element(0x04, value)])
    };
    let alternative = match host.parse() {
        Ok(std::net::IpAddr::V4(address)) => element(0x87, &address.octets()),
        Ok(std::net::IpAddr::V6(address)) => element(0x87, &address.octets()),
        Err(_) => element(0x82, host.as_bytes()),
    };
    // serverAuth.
    let server = element(0x06, &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01]);
    sequence(&[
        extension(17, &sequence(&[alternative])),
        extension(15, &element(0x03, &[7, 0x80])),
        extension(37, &sequence(&[server])),
    ])
}

/// ecdsa-with-SHA256 (RFC 5758).
fn signature_algorithm() -> Vec<u8> {
    sequence(&[element(
        0x06,
        &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02],
    )])
}

/// A name with a common name alone; RFC 5280 gives it 64 characters.
fn name(host: &str) -> Vec<u8> {
    let host: String = host.chars().take(64).collect();
    let common = sequence(&[
        element(0x06, &[0x55, 0x04, 0x03]),
        element(0x0c, host.as_bytes()),
    ]);
    sequence(&[element(0x31, &common)])
}

/// A time in UTC, `YYYYMMDDHHMMSSZ`, or without the century before 2050 (RFC 5280, 4.1.2.5).
fn time(at: SystemTime) -> Vec<u8> {
    let seconds = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    let text = format!("{year:04}{month:02}{day:02}{hour:02}{minute:02}{second:02}Z");
    match text.get(2..) {
        Some(short) if year < 2050 => element(0x17, short.as_bytes()),
        _ => element(0x18, text.as_bytes()),
    }
}

/// Year, month and day of a day since 1970, counted year by year and month by month.
fn civil(mut days: u64) -> (u64, u64, u64) {
    let leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let mut year = 1970;
    loop {
        let length = 365 + u64::from(leap(year));
        if days < length {
            break;
        }
        (days, year) = (days - length, year + 1);
    }
    let february = 28 + u64::from(leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        (days, month) = (days - length, month + 1);
    }
    (year, month, days + 1)
}

fn sequence(parts: &[Vec<u8>]) -> Vec<u8> {
    element(0x30, &parts.concat())
}

fn bit_string(bytes: &[u8]) -> Vec<u8> {
    element(0x03, &[&[0], bytes].concat())
}

/// Tag, length and value (X.690, 8.1).
fn element(tag: u8, value: &[u8]) -> Vec<u8> {
    let length = value.len().to_be_bytes();
    let length: Vec<u8> = length.into_iter().skip_while(|byte| *byte == 0).collect();
    let mut bytes = vec![tag];
    match (value.len(), u8::try_from(length.len())) {
        (0..0x80, _) => bytes.push(length.first().copied().unwrap_or(0)),
        (_, count) => {
            bytes.push(0x80 | count.unwrap_or(0));
            bytes.extend(&length);
        }
    }
    bytes.extend(value);
    bytes
}

fn pem(kind: &str, bytes: &[u8]) -> String {
    let text = STANDARD.encode(bytes);
    let mut lines = vec![format!("-----BEGIN {kind}-----")];
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        lines.push(line.to_owned());
        rest = after;
    }
    lines.push(format!("-----END {kind}-----\n"));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_the_forms_of_the_rfc() {
        let at = |seconds| time(UNIX_EPOCH + Duration::from_secs(seconds));
        for (seconds, tag, text) in [
            (0, 0x17, "700101000000Z"),
            (951_782_399, 0x17, "000228235959Z"),
            (951_782_400, 0x17, "000229000000Z"),
            (1_709_251_199, 0x17, "240229235959Z"),
            (2_524_607_999, 0x17, "491231235959Z"),
            (2_524_608_000, 0x18, "20500101000000Z"),
            (4_107_542_400, 0x18, "21000301000000Z"),
        ] {
            assert_eq!(at(seconds), element(tag, text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn lengths_are_the_shortest() {
        for (length, head) in [
            (0, &[4, 0][..]),
            (127, &[4, 127]),
            (128, &[4, 0x81, 128]),
            (256, &[4, 0x82, 1, 0]),
        ] {
            let made = element(4, &vec![7; length]);
            assert_eq!(made[..head.len()], *head, "{length}");
            assert_eq!(made.len(), head.len() + length);
        }
    }

    #[test]
    fn what_is_there_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (certificate, key) = (dir.path().join("a/cert"), dir.path().join("b/key"));
        assert!(make_if_missing(&certificate, &key, "node").unwrap());
        let made = std::fs::read(&certificate).unwrap();
        assert!(!make_if_missing(&certificate, &key, "node").unwrap());
        std::fs::remove_file(&key).unwrap();
        assert!(!make_if_missing(&certificate, &key, "node").unwrap());
        assert_eq!(std::fs::read(&certificate).unwrap(), made);
        assert!(!key.try_exists().unwrap());
    }
}
