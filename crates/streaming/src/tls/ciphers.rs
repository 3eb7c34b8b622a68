//! Cipher suites by the names that Go has for them, which are IANA's.

use rustls::SupportedCipherSuite;
use rustls::crypto::aws_lc_rs::cipher_suite::*;

use super::Error;

/// Suites of TLS 1.2 that we have. Those of 1.3 are always there: Go doesn't let them be chosen.
const OURS: [(&str, SupportedCipherSuite); 6] = [
    (
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    ),
    (
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    (
        "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
        TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    ),
    (
        "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
];

/// Names that Go knows for suites that we don't have, and of those of 1.3: named without harm.
const OTHERS: [&str; 16] = [
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
];

/// The suites of 1.3 and those of 1.2 that `names` has, or all.
pub(super) fn choose(names: &[String]) -> Result<Vec<SupportedCipherSuite>, Error> {
    let mut chosen = vec![
        TLS13_AES_256_GCM_SHA384,
        TLS13_AES_128_GCM_SHA256,
        TLS13_CHACHA20_POLY1305_SHA256,
    ];
    let always = chosen.len();
    let names: Vec<_> = names.iter().filter(|name| !name.is_empty()).collect();
    if names.is_empty() {
        chosen.extend(OURS.iter().map(|(_, suite)| *suite));
        return Ok(chosen);
    }
    for name in names {
        // Go's older names of two of them.
        let full = name.strip_suffix("_CHACHA20_POLY1305").map_or_else(
            || name.clone(),
            |start| format!("{start}_CHACHA20_POLY1305_SHA256"),
        );
        match OURS.iter().find(|(ours, _)| *ours == full) {
            Some((_, suite)) => chosen.push(*suite),
            None if OTHERS.contains(&full.as_str()) => {
                tracing::warn!(suite = full, "cipher suite left out");
            }
            None => return Err(Error::Cipher(name.clone())),
        }
    }
    if chosen.len() == always {
        return Err(Error::NoCipher);
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_are_found_by_gos_names() {
        let names = |names: &[&str]| -> Vec<String> {
            names.iter().map(|name| (*name).to_owned()).collect()
        };
        for (given, count) in [
            (&[][..], Some(9)),
            (&["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"], Some(4)),
            (&["TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305"], Some(4)),
            (
                &[
                    "TLS_RSA_WITH_AES_128_CBC_SHA",
                    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
                ],
                Some(4),
            ),
            (&["TLS_RSA_WITH_AES_128_CBC_SHA"], None),
            (&["TLS_NONSENSE"], None),
        ] {
            let chosen = choose(&names(given)).ok().map(|suites| suites.len());
            assert_eq!(chosen, count, "{given:?}");
        }
    }
}
