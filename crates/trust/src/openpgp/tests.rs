//! Keys and messages that GnuPG makes.

use pgp::composed::{Deserializable as _, SignedSecretKey};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{LiteralData, OnePassSignature, PacketTrait as _, SignatureType};
use pgp::ser::Serialize as _;
use pgp::types::{KeyDetails as _, Password, SignatureBytes, SigningKey as _};

use crate::openpgp::KeyRing;
use crate::signer::Gpg;
use crate::time::Now;

const CONTENT: &[u8] = b"{\"a\": \"b\"}\r\n";
const DAY: u64 = 86_400;

fn ring(keys: &[Vec<u8>]) -> KeyRing {
    KeyRing::parse(keys).unwrap()
}

fn now() -> Now {
    Now::by_clock()
}

/// Verifies, and expects a refusal whose text has these words.
#[track_caller]
fn refused(ring: &KeyRing, message: &[u8], when: Now, words: &str) {
    let why = ring.verify(message, when).unwrap_err();
    assert!(why.contains(words), "{why}");
}

#[test]
fn messages_of_each_kind_of_key_are_verified() {
    let gpg = Gpg::new().unwrap();
    for (user, algorithm) in [
        ("rsa@x.io", "rsa3072"),
        ("dsa@x.io", "dsa2048"),
        ("ed@x.io", "ed25519"),
        ("nist@x.io", "nistp256"),
        ("nist521@x.io", "nistp521"),
    ] {
        gpg.key(user, algorithm, "never").unwrap();
        let keys = gpg.export(user).unwrap();
        let armored = gpg.run(&["--armor", "--export", user], b"").unwrap();
        for options in [
            &[][..],
            &["--compress-algo", "none"],
            &["--compress-algo", "zlib"],
            &["--textmode"],
        ] {
            let message = gpg.sign_with(options, user, CONTENT).unwrap();
            for keys in [&keys, &armored] {
                let read = ring(std::slice::from_ref(keys)).verify(&message, now());
                let read = read.unwrap_or_else(|why| panic!("{algorithm} {options:?}: {why}"));
                let text = options.contains(&"--textmode");
                assert!(text || read == CONTENT, "{algorithm} {options:?}");
            }
        }
    }
}

#[test]
fn one_key_of_several_is_enough_and_another_is_none() {
    let gpg = Gpg::new().unwrap();
    for user in ["a@x.io", "b@x.io", "c@x.io"] {
        gpg.key(user, "ed25519", "never").unwrap();
    }
    let export = |user: &str| gpg.export(user).unwrap();
    let armored = |user: &str| gpg.run(&["--armor", "--export", user], b"").unwrap();
    let message = gpg.sign("b@x.io", CONTENT).unwrap();
    let both = [export("a@x.io"), export("b@x.io")];
    for keys in [
        both.to_vec(),
        vec![both.concat()],
        vec![[armored("a@x.io"), armored("b@x.io")].concat()],
    ] {
        assert_eq!(ring(&keys).verify(&message, now()).unwrap(), CONTENT);
    }
    let others = ring(&[export("a@x.io"), export("c@x.io")]);
    refused(&others, &message, now(), "which the policy does not name");
    for nothing in [
        &b""[..],
        b"no key",
        b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n",
    ] {
        assert!(KeyRing::parse(&[nothing.to_vec()]).is_err());
    }
    assert!(KeyRing::parse(&[]).is_err());
}

#[test]
fn a_byte_that_was_changed_anywhere_is_noticed() {
    let gpg = Gpg::new().unwrap();
    gpg.key("a@x.io", "ed25519", "never").unwrap();
    let keys = ring(&[gpg.export("a@x.io").unwrap()]);
    let message = gpg
        .sign_with(&["--compress-algo", "none"], "a@x.io", CONTENT)
        .unwrap();
    let literal = message
        .windows(CONTENT.len())
        .position(|part| part == CONTENT)
        .unwrap();
    for at in literal..literal + CONTENT.len() {
        let mut other = message.clone();
        other[at] ^= 1;
        assert!(keys.verify(&other, now()).is_err(), "byte {at}");
    }
    for at in 0..message.len() {
        let mut other = message.clone();
        other[at] ^= 0x10;
        // What is not signed (the issuer's hint, the literal's file name and date) may change; then
        // the content is the same.
        if let Ok(content) = keys.verify(&other, now()) {
            assert_eq!(content, CONTENT, "byte {at}");
        }
        assert!(keys.verify(&message[..at], now()).is_err(), "cut at {at}");
    }
}

#[test]
fn keys_and_signatures_expire() {
    let gpg = Gpg::new().unwrap();
    gpg.key("short@x.io", "ed25519", "10d").unwrap();
    gpg.key("long@x.io", "ed25519", "never").unwrap();
    let short = ring(&[gpg.export("short@x.io").unwrap()]);
    let message = gpg.sign("short@x.io", CONTENT).unwrap();
    let later = |days: u64| Now(now().0 + days * DAY);
    short.verify(&message, later(9)).unwrap();
    refused(&short, &message, later(11), "has expired");
    // Its owner prolongs it a day later: the newest word counts.
    let print = gpg.fingerprint("short@x.io").unwrap();
    let tomorrow = later(1).0.to_string();
    let command = [
        "--faked-system-time",
        &tomorrow,
        "--quick-set-expire",
        &print,
        "20d",
    ];
    gpg.run(&command, b"").unwrap();
    let prolonged = ring(&[gpg.export("short@x.io").unwrap()]);
    prolonged.verify(&message, later(19)).unwrap();
    refused(&prolonged, &message, later(22), "has expired");
    let options = ["--default-sig-expire", "10d"];
    let message = gpg.sign_with(&options, "long@x.io", CONTENT).unwrap();
    let long = ring(&[gpg.export("long@x.io").unwrap()]);
    long.verify(&message, later(9)).unwrap();
    refused(
        &long,
        &message,
        later(11),
        "the OpenPGP signature has expired",
    );
    refused(&long, &message, Now(now().0 - 10 * DAY), "younger");
}

#[test]
fn a_revoked_key_is_good_for_nothing() {
    let gpg = Gpg::new().unwrap();
    gpg.key("a@x.io", "ed25519", "never").unwrap();
    let message = gpg.sign("a@x.io", CONTENT).unwrap();
    let before = gpg.export("a@x.io").unwrap();
    ring(std::slice::from_ref(&before))
        .verify(&message, now())
        .unwrap();
    gpg.revoke("a@x.io").unwrap();
    // A copy from before does not help.
    let both = [before, gpg.export("a@x.io").unwrap()];
    refused(&ring(&both), &message, now(), "is revoked");
    let reversed = [both[1].clone(), both[0].clone()];
    refused(&ring(&reversed), &message, now(), "is revoked");
    let revoked = ring(&[gpg.export("a@x.io").unwrap()]);
    refused(&revoked, &message, now(), "is revoked");
}

#[test]
fn subkeys_sign_if_they_are_for_it_and_valid() {
    let gpg = Gpg::new().unwrap();
    let user = "a@x.io";
    gpg.run(
        &["--quick-generate-key", user, "ed25519", "cert", "never"],
        b"",
    )
    .unwrap();
    let print = gpg.fingerprint(user).unwrap();
    gpg.run(&["--quick-add-key", &print, "rsa2048", "sign", "10d"], b"")
        .unwrap();
    gpg.run(
        &["--quick-add-key", &print, "cv25519", "encr", "never"],
        b"",
    )
    .unwrap();
    let keys = ring(&[gpg.export(user).unwrap()]);
    let message = gpg.sign(user, CONTENT).unwrap();
    assert_eq!(keys.verify(&message, now()).unwrap(), CONTENT);
    refused(&keys, &message, Now(now().0 + 11 * DAY), "has expired");
    // The same key with neither of its subkeys does not know the signer.
    let bare = gpg.run(
        &[
            "--export-options",
            "export-minimal",
            "--export-filter",
            "drop-subkey=usage=~s",
            "--export",
            user,
        ],
        b"",
    );
    refused(
        &ring(&[bare.unwrap()]),
        &message,
        now(),
        "which the policy does not name",
    );
    gpg.revoke(user).unwrap();
    refused(
        &ring(&[gpg.export(user).unwrap()]),
        &message,
        now(),
        "is revoked",
    );
}

#[test]
fn weak_digests_and_other_kinds_of_messages_are_refused() {
    let gpg = Gpg::new().unwrap();
    gpg.key("a@x.io", "rsa2048", "never").unwrap();
    gpg.key("b@x.io", "rsa2048", "never").unwrap();
    let both = ring(&[gpg.export("a@x.io").unwrap(), gpg.export("b@x.io").unwrap()]);
    let weak = gpg
        .sign_with(&["--digest-algo", "SHA1"], "a@x.io", CONTENT)
        .unwrap();
    refused(&both, &weak, now(), "SHA1");
    let run = |args: &[&str]| gpg.run(args, CONTENT).unwrap();
    let two = run(&["-u", "a@x.io", "-u", "b@x.io", "--sign"]);
    refused(&both, &two, now(), "several signatures");
    let none = run(&["--store"]);
    refused(&both, &none, now(), "not signed");
    let alone = run(&["-u", "a@x.io", "--detach-sign"]);
    assert!(both.verify(&alone, now()).is_err());
    let clear = run(&["-u", "a@x.io", "--clear-sign"]);
    assert!(both.verify(&clear, now()).is_err());
    assert!(both.verify(b"", now()).is_err());
    // A key, which has a signature of its own, is no message.
    assert!(both.verify(&gpg.export("a@x.io").unwrap(), now()).is_err());
}

#[test]
fn what_is_in_a_message_may_not_be_endless() {
    let gpg = Gpg::new().unwrap();
    gpg.key("a@x.io", "ed25519", "never").unwrap();
    let keys = ring(&[gpg.export("a@x.io").unwrap()]);
    let zeros = vec![b' '; 8 << 20];
    let bomb = gpg.sign("a@x.io", &zeros).unwrap();
    assert!(bomb.len() < 100_000);
    refused(&keys, &bomb, now(), "bytes in it");
    let large = gpg.sign_with(&["--compress-algo", "none"], "a@x.io", &zeros[..300_000]);
    refused(&keys, &large.unwrap(), now(), "bytes in it");
    let larger = gpg.sign_with(&["--compress-algo", "none"], "a@x.io", &zeros);
    refused(&keys, &larger.unwrap(), now(), "more than");
    // A million packets that each announce a signature.
    let mut begins = Vec::new();
    let id = gpg
        .sign_with(&["--compress-algo", "none"], "a@x.io", b"")
        .unwrap();
    let length = 2 + usize::from(id[1]);
    for _ in 0..1_000_000 {
        begins.extend(&id[..length]);
    }
    let mut packed = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::Write::write_all(&mut packed, &begins).unwrap();
    let packed = packed.finish().unwrap();
    let mut flood = vec![0xc8, 0xff];
    flood.extend(u32::try_from(packed.len() + 1).unwrap().to_be_bytes());
    flood.push(1);
    flood.extend(packed);
    assert!(flood.len() < 100_000, "{}", flood.len());
    refused(&keys, &flood, now(), "bytes in it");
    let one = keys.verify(&begins[..length * 10], now()).unwrap_err();
    assert!(one.contains("no OpenPGP message"), "{one}");
}

#[test]
fn signatures_of_the_third_version_count_too() {
    let gpg = Gpg::new().unwrap();
    gpg.key("a@x.io", "rsa2048", "never").unwrap();
    let keys = ring(&[gpg.export("a@x.io").unwrap()]);
    // gpg itself makes none any more.
    let secret = gpg.run(&["--export-secret-keys", "a@x.io"], b"").unwrap();
    let secret = SignedSecretKey::from_bytes(&*secret).unwrap().primary_key;
    let (kind, hash) = (SignatureType::Binary, HashAlgorithm::Sha256);
    let (id, algorithm) = (secret.legacy_key_id(), secret.algorithm());
    // RFC 4880, 5.2.2: what is hashed after the content, and the packet that has it.
    let made = u32::try_from(now().0).unwrap().to_be_bytes();
    let signed = [CONTENT, &[kind.into()], &made].concat();
    let signed = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &signed);
    let signature = secret
        .sign(&Password::empty(), hash, signed.as_ref())
        .unwrap();
    let mut body = vec![3, 5, kind.into()];
    body.extend(made);
    body.extend(id.as_ref());
    body.extend([u8::from(algorithm), u8::from(hash)]);
    body.extend(&signed.as_ref()[..2]);
    let SignatureBytes::Mpis(numbers) = signature else {
        panic!("{signature:?}")
    };
    for number in numbers {
        number.to_writer(&mut body).unwrap();
    }
    let message = |content: &[u8]| {
        let mut message = Vec::new();
        let begins = OnePassSignature::v3(kind, hash, algorithm, id);
        begins.to_writer_with_header(&mut message).unwrap();
        let literal = LiteralData::from_bytes("", content.to_vec().into()).unwrap();
        literal.to_writer_with_header(&mut message).unwrap();
        message.extend([0xc2, 0xff]);
        message.extend(u32::try_from(body.len()).unwrap().to_be_bytes());
        message.extend(&body);
        message
    };
    assert_eq!(keys.verify(&message(CONTENT), now()).unwrap(), CONTENT);
    refused(&keys, &message(b"{}"), now(), "is wrong");
}
