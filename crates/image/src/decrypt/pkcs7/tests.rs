#![allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "the bytes are those of the tests"
)]

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rsa::{KeySize, Pkcs1PublicEncryptingKey, PrivateDecryptingKey};

use super::*;
use crate::decrypt::keys::der;

const PLAIN: &[u8] = b"{\"symkey\":\"c2VjcmV0\"}";
const KEY: &[u8; 16] = b"sixteen bytes it";
const NONCE_BYTES: [u8; 12] = [9; 12];
/// A recipient of another kind (by agreement), which has a tag of its own.
const OTHER: [u8; 2] = [0xa1, 0];

fn private_key() -> (PrivateDecryptingKey, Key) {
    let key = PrivateDecryptingKey::generate(KeySize::Rsa2048).unwrap();
    let read = Key::of_pkcs8(key.as_der().unwrap().as_ref());
    (key, read)
}

/// A recipient whose certificate is anything.
fn recipient(key: &PrivateDecryptingKey, algorithm: &[u8]) -> Vec<u8> {
    let public = Pkcs1PublicEncryptingKey::new(key.public_key()).unwrap();
    let mut wrapped = vec![0; public.ciphertext_size()];
    let wrapped = public.encrypt(KEY, &mut wrapped).unwrap();
    let parts = [
        der(INTEGER, &[0]),
        der(SEQUENCE, b"a certificate's issuer and number"),
        der(SEQUENCE, &der(OBJECT, algorithm)),
        der(OCTETS, wrapped),
    ];
    der(SEQUENCE, &parts.concat())
}

fn sealed() -> Vec<u8> {
    let key = LessSafeKey::new(aead::UnboundKey::new(&AES_128_GCM, KEY).unwrap());
    let mut sealed = PLAIN.to_vec();
    let nonce = Nonce::assume_unique_for_key(NONCE_BYTES);
    key.seal_in_place_append_tag(nonce, Aad::empty(), &mut sealed)
        .unwrap();
    sealed
}

/// Parameters with that many bytes of tag, in the form of ocicrypt's library.
fn parameters(tag_bytes: u8) -> Vec<u8> {
    let inner = [der(NONCE, &NONCE_BYTES), der(INTEGER, &[tag_bytes])].concat();
    der(PRIMITIVE_SEQUENCE, &der(SEQUENCE, &inner))
}

fn message(recipients: &[u8], cipher: &[u8], parameters: &[u8], content: &[u8]) -> Vec<u8> {
    let algorithm = [der(OBJECT, cipher), parameters.to_vec()].concat();
    let content = [
        der(OBJECT, b"data"),
        der(SEQUENCE, &algorithm),
        der(FIRST, content),
    ];
    let data = [
        der(INTEGER, &[0]),
        der(SET, recipients),
        der(SEQUENCE, &content.concat()),
    ];
    let data = der(FIRST, &der(SEQUENCE, &data.concat()));
    der(SEQUENCE, &[der(OBJECT, ENVELOPED_DATA), data].concat())
}

#[test]
fn whoever_is_a_recipient_reads_it_and_nobody_else() {
    let (one, own) = private_key();
    let (other, others) = private_key();
    let content = der(OCTETS, &sealed());
    let of =
        |recipients: &[Vec<u8>]| message(&recipients.concat(), AES_128, &parameters(16), &content);
    let (first, second) = (
        recipient(&one, RSA_ENCRYPTION),
        recipient(&other, RSA_ENCRYPTION),
    );
    let both = of(&[OTHER.to_vec(), second.clone(), first.clone()]);
    for keys in [[Key::test_ec(), own], [Key::test_ec(), others]] {
        assert_eq!(open(&both, &keys).unwrap(), PLAIN);
        let opened = [&first, &second]
            .map(|it| of(std::slice::from_ref(it)))
            .map(|it| open(&it, &keys));
        let refused: Vec<_> = opened.iter().filter_map(|it| it.as_ref().err()).collect();
        assert_eq!(refused, ["no key fits"]);
    }
    assert_eq!(open(&both, &[]).unwrap_err(), "no key fits");
}

#[test]
fn content_may_come_in_pieces_and_no_bit_of_it_may_change() {
    let (key, own) = private_key();
    let keys = [own];
    let recipient = recipient(&key, RSA_ENCRYPTION);
    let sealed = sealed();
    let (head, tail) = sealed.split_at(5);
    let pieces = [der(OCTETS, head), der(OCTETS, &[]), der(OCTETS, tail)].concat();
    let of = |content: &[u8]| message(&recipient, AES_128, &parameters(16), content);
    assert_eq!(open(&of(&pieces), &keys).unwrap(), PLAIN);
    for at in 0..sealed.len() {
        let mut changed = sealed.clone();
        changed[at] ^= 1;
        let opened = open(&of(&der(OCTETS, &changed)), &keys);
        assert_eq!(opened.unwrap_err(), "no key fits", "byte {at}");
    }
    let whole = of(&der(OCTETS, &sealed));
    for length in 0..whole.len() {
        assert_eq!(open(&whole[..length], &keys).unwrap_err(), "malformed");
    }
}

#[test]
fn what_is_not_supported_is_told() {
    let (key, own) = private_key();
    let keys = [own];
    let content = der(OCTETS, &sealed());
    let good = recipient(&key, RSA_ENCRYPTION);
    let oaep = [0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 1, 1, 7];
    let cbc = [0x60, 0x86, 0x48, 1, 0x65, 3, 4, 1, 2];
    let signed = der(
        SEQUENCE,
        &der(OBJECT, &[0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 1, 7, 2]),
    );
    let many = good.repeat(limits::RECIPIENTS + 1);
    for (bytes, expected) in [
        (signed, "not of the type enveloped data"),
        (
            message(&good, &cbc, &parameters(16), &content),
            "content encryption is not supported",
        ),
        (
            message(&recipient(&key, &oaep), AES_128, &parameters(16), &content),
            "no recipient has a key by RSA",
        ),
        (
            message(&OTHER, AES_128, &parameters(16), &content),
            "no recipient has a key by RSA",
        ),
        (
            message(&many, AES_128, &parameters(16), &content),
            "too many recipients",
        ),
        (
            message(&good, AES_128, &parameters(12), &content),
            "malformed",
        ),
        (
            message(&good, AES_256, &parameters(16), &content),
            "no key fits",
        ),
    ] {
        let error = open(&bytes, &keys).unwrap_err();
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[test]
fn only_lengths_of_the_shortest_form_are_lengths() {
    for (bytes, rest) in [
        (&[4_u8, 1, 7, 5][..], Some(&[5_u8][..])),
        (&[4, 0x81, 1, 7], None),
        (&[4, 0x82, 0, 1, 7], None),
        (&[4, 0x80, 7, 0, 0], None),
        (&[4, 0x85, 0, 0, 0, 0, 1, 7], None),
        (&[4, 0x84, 0xff, 0xff, 0xff, 0xff, 7], None),
        (&[4, 2, 7], None),
        (&[4], None),
        (&[0x1f, 1, 7], None),
    ] {
        let mut elements = Elements(bytes);
        let found = elements.next().map(|_| elements.0);
        assert_eq!(found, rest, "{bytes:?}");
    }
}
