//! Private keys as JSON Web Keys (RFC 7517), of RSA and of the NIST curves (RFC 7518, 6).

use aws_lc_rs::agreement::{self, PrivateKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use super::{Key, der, pkcs8_of};

/// What is read of one; what it is for is its owner's to know.
#[derive(Deserialize)]
#[serde(tag = "kty")]
enum Jwk {
    #[serde(rename = "EC")]
    Ec { crv: String, d: String },
    #[serde(rename = "RSA")]
    Rsa(Box<Rsa>),
}

/// The numbers of an RSA key, in the order of PKCS #1 (RFC 8017, A.1.2).
#[derive(Deserialize)]
struct Rsa {
    n: String,
    e: String,
    d: String,
    p: String,
    q: String,
    dp: String,
    dq: String,
    qi: String,
}

/// Whether the bytes of a file are JSON, and so no other form of a key.
pub(super) fn is_one(bytes: &[u8]) -> bool {
    bytes.trim_ascii_start().starts_with(b"{")
}

/// Reads one.
pub(super) fn parse(bytes: &[u8]) -> Result<Key, &'static str> {
    match serde_json::from_slice(bytes) {
        Ok(Jwk::Ec { crv, d }) => elliptic(&crv, &d),
        Ok(Jwk::Rsa(numbers)) => rsa(&numbers),
        Err(_) => Err("no private JSON Web Key of a known kind"),
    }
}

fn elliptic(curve: &str, d: &str) -> Result<Key, &'static str> {
    let (curve, length) = match curve {
        "P-256" => (&agreement::ECDH_P256, 32),
        "P-384" => (&agreement::ECDH_P384, 48),
        "P-521" => (&agreement::ECDH_P521, 66),
        _ => return Err("a JSON Web Key of an unknown curve"),
    };
    let number = decoded(d)?;
    // As long as the curve's numbers are; who writes fewer bytes is understood.
    let missing = length_of(length, number.len())?;
    let number = [vec![0; missing], number].concat();
    let key = PrivateKey::from_private_key(curve, &number);
    key.map(Key::Ec)
        .map_err(|_| "a JSON Web Key with a number that is none of its curve")
}

fn length_of(whole: usize, given: usize) -> Result<usize, &'static str> {
    let missing = whole.checked_sub(given);
    missing.ok_or("a JSON Web Key with a number that is too long")
}

fn rsa(key: &Rsa) -> Result<Key, &'static str> {
    let Rsa {
        n,
        e,
        d,
        p,
        q,
        dp,
        dq,
        qi,
    } = key;
    const SEQUENCE: u8 = 0x30;
    // Version 0: two primes.
    let mut numbers = integer(&[]);
    for number in [n, e, d, p, q, dp, dq, qi] {
        numbers.extend(integer(&decoded(number)?));
    }
    Key::from_pkcs8(&pkcs8_of(&der(SEQUENCE, &numbers)))
}

fn decoded(text: &str) -> Result<Vec<u8>, &'static str> {
    let bytes = URL_SAFE_NO_PAD.decode(text);
    bytes.map_err(|_| "a JSON Web Key with a number that is not base64url")
}

/// A number that is not negative as DER has it (X.690, 8.3).
fn integer(bytes: &[u8]) -> Vec<u8> {
    const INTEGER: u8 = 2;
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    let digits = bytes.get(zeros..).unwrap_or_default();
    // A first bit that is set would be a sign.
    let sign: &[u8] = match digits.first() {
        Some(first) if *first < 0x80 => &[],
        _ => &[0],
    };
    der(INTEGER, &[sign, digits].concat())
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
    use aws_lc_rs::rsa::{KeySize, PrivateDecryptingKey};

    use super::*;

    /// RFC 7517, A.2.
    const CURVE: &str = r#"{"kty":"EC","crv":"P-256",
        "x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
        "y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
        "d":"870MB6gfuTJ4HtUnUvYMyJpr5eUZNP4Bk43bVdj3eAE","use":"enc","kid":"1"}"#;

    #[test]
    fn a_curves_key_is_the_one_of_rfc_7517() {
        let Ok(Key::Ec(key)) = parse(CURVE.as_bytes()) else {
            panic!("no key");
        };
        let public = key.compute_public_key().unwrap();
        let parts = [
            "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
            "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
        ];
        let parts = parts.map(|part| URL_SAFE_NO_PAD.decode(part).unwrap());
        assert_eq!(public.as_ref(), [vec![4], parts.concat()].concat());
    }

    /// The content of the element that DER begins with, and what follows it.
    fn element(der: &[u8]) -> (&[u8], &[u8]) {
        let (head, length) = match der[1] {
            0x81 => (3, usize::from(der[2])),
            0x82 => (4, usize::from(der[2]) << 8 | usize::from(der[3])),
            short => (2, usize::from(short)),
        };
        der[head..].split_at(length)
    }

    #[test]
    fn an_rsa_key_is_the_one_that_was_written() {
        let key = PrivateDecryptingKey::generate(KeySize::Rsa2048).unwrap();
        let pkcs8: Pkcs8V1Der<'_> = key.as_der().unwrap();
        let (inside, _) = element(pkcs8.as_ref());
        let (_, behind_version) = element(inside);
        let (_, behind_algorithm) = element(behind_version);
        let (octets, _) = element(behind_algorithm);
        let (mut numbers, _) = element(octets);
        let mut members = vec![r#""kty":"RSA""#.to_owned()];
        for name in ["version", "n", "e", "d", "p", "q", "dp", "dq", "qi"] {
            let (number, rest) = element(numbers);
            let zeros = number.iter().take_while(|byte| **byte == 0).count();
            let text = URL_SAFE_NO_PAD.encode(&number[zeros..]);
            members.push(format!(r#""{name}":"{text}""#));
            numbers = rest;
        }
        let text = format!("\n {{{}}}", members.join(","));
        let Ok(Key::Rsa { oaep: read, .. }) = Key::parse(text.as_bytes()) else {
            panic!("no key");
        };
        let public = aws_lc_rs::rsa::OaepPublicEncryptingKey::new(key.public_key()).unwrap();
        let mut secret = vec![0; public.ciphertext_size()];
        let algorithm = &aws_lc_rs::rsa::OAEP_SHA1_MGF1SHA1;
        let secret = public
            .encrypt(algorithm, b"secret", &mut secret, None)
            .unwrap()
            .to_vec();
        let mut plain = vec![0; read.min_output_size()];
        let plain = read.decrypt(algorithm, &secret, &mut plain, None).unwrap();
        assert_eq!(plain, b"secret");
    }

    #[test]
    fn what_is_no_private_key_is_told() {
        let with = |from: &str, to: &str| CURVE.replace(from, to);
        for (text, reason) in [
            (with("\"d\":", "\"public\":"), "no private JSON Web Key"),
            (with("P-256", "secp256k1"), "unknown curve"),
            (with("870MB6", "AAAA870MB6"), "too long"),
            (with("870MB6", "87+MB6"), "not base64url"),
            (with("\"EC\"", "\"oct\""), "no private JSON Web Key"),
            ("{".to_owned(), "no private JSON Web Key"),
        ] {
            let told = Key::parse(text.as_bytes()).err().unwrap_or_default();
            assert!(told.contains(reason), "{told}: {text}");
        }
    }
}
