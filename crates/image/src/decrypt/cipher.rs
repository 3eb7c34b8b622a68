//! AES-256-CTR with an HMAC-SHA-256 over the ciphertext (ocicrypt's `AES_256_CTR_HMAC_SHA256`).
//!
//! Bytes are passed on before the HMAC is known, as everywhere in a pull: what comes of them is
//! committed only when [`Decryptor::finish`] has said that they are the right ones.

use std::io::{self, BufRead, Read};

use aws_lc_rs::cipher::{AES_256, DecryptionContext, StreamingDecryptingKey, UnboundCipherKey};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;

use super::Secret;

/// Bytes that are decrypted at once.
const PIECE: usize = 128 << 10;
/// The cipher wants room for one block more.
const BLOCK: usize = 16;

/// Reads what a ciphertext was made of.
pub(crate) struct Decryptor<R> {
    inner: R,
    cipher: StreamingDecryptingKey,
    mac: hmac::Context,
    expected_mac: Vec<u8>,
    plain: Vec<u8>,
    at: usize,
    ended: bool,
}

impl<R: BufRead> Decryptor<R> {
    pub(crate) fn new(inner: R, secret: &Secret) -> io::Result<Self> {
        let cipher = || {
            let key = UnboundCipherKey::new(&AES_256, &secret.key)?;
            let context = DecryptionContext::Iv128((&secret.nonce).into());
            StreamingDecryptingKey::ctr(key, context)
        };
        Ok(Self {
            inner,
            cipher: cipher().map_err(|_| io::Error::other("the cipher refused its key"))?,
            mac: hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &secret.key)),
            expected_mac: secret.hmac.clone(),
            plain: Vec::new(),
            at: 0,
            ended: false,
        })
    }

    /// At least `wanted` bytes of what is left, unless there are fewer.
    pub(crate) fn peek(&mut self, wanted: usize) -> io::Result<&[u8]> {
        while self.plain.len() - self.at < wanted && !self.ended {
            self.more()?;
        }
        Ok(&self.plain[self.at..])
    }

    /// Reads what is left; tells whether all of it was authentic.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        while !self.ended {
            self.at = self.plain.len();
            self.more()?;
        }
        verify_slices_are_equal(self.mac.sign().as_ref(), &self.expected_mac).map_err(|_| {
            let text = "the HMAC of the encrypted layer is another";
            io::Error::new(io::ErrorKind::InvalidData, text)
        })
    }

    /// Decrypts one more piece.
    fn more(&mut self) -> io::Result<()> {
        let piece = self.inner.fill_buf()?;
        let piece = piece.get(..PIECE).unwrap_or(piece);
        if piece.is_empty() {
            self.ended = true;
            return Ok(());
        }
        self.plain.drain(..self.at);
        self.at = 0;
        let (before, length) = (self.plain.len(), piece.len());
        self.mac.update(piece);
        self.plain.resize(before + length + BLOCK, 0);
        let decrypted = self.cipher.update(piece, &mut self.plain[before..]);
        let written = decrypted.map(|done| done.written().len());
        let written = written.map_err(|_| io::Error::other("the cipher failed"))?;
        self.plain.truncate(before + written);
        self.inner.consume(length);
        Ok(())
    }
}

impl<R: BufRead> BufRead for Decryptor<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.peek(1)
    }

    fn consume(&mut self, amount: usize) {
        self.at = (self.at + amount).min(self.plain.len());
    }
}

impl<R: BufRead> Read for Decryptor<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let length = available.len().min(into.len());
        into[..length].copy_from_slice(&available[..length]);
        self.consume(length);
        Ok(length)
    }
}

/// Encrypts as ocicrypt does, for tests and fuzzing.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn encrypt(plain: &[u8]) -> (Vec<u8>, Secret) {
    use aws_lc_rs::cipher::EncryptingKey;
    let (key, nonce) = ([7; 32], [9; BLOCK]);
    let cipher = UnboundCipherKey::new(&AES_256, &key).expect("the key has the length");
    let cipher = EncryptingKey::ctr(cipher).expect("the mode is there");
    let mut bytes = plain.to_vec();
    let context = aws_lc_rs::cipher::EncryptionContext::Iv128((&nonce).into());
    cipher
        .less_safe_encrypt(&mut bytes, context)
        .expect("a buffer of any length");
    let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), &bytes);
    let secret = Secret {
        key,
        nonce,
        hmac: mac.as_ref().to_vec(),
    };
    (bytes, secret)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::BufReader;

    fn decrypt(bytes: &[u8], secret: &Secret, piece: usize) -> io::Result<Vec<u8>> {
        let mut reader = Decryptor::new(BufReader::with_capacity(piece, bytes), secret)?;
        let head = reader.peek(6)?.to_vec();
        let mut plain = Vec::new();
        reader.read_to_end(&mut plain)?;
        assert_eq!(
            plain.get(..head.len().min(6)),
            head.get(..6.min(head.len()))
        );
        reader.finish()?;
        Ok(plain)
    }

    #[test]
    fn what_was_encrypted_comes_back_however_it_is_cut() {
        for length in [0, 1, 15, 16, 17, 300_000] {
            let plain: Vec<u8> = (0..length).map(|n: u32| (n % 251) as u8).collect();
            let (bytes, secret) = encrypt(&plain);
            for piece in [1, 7, 1 << 20] {
                if length < 1000 || piece > 7 {
                    assert_eq!(
                        decrypt(&bytes, &secret, piece).unwrap(),
                        plain,
                        "{length} {piece}"
                    );
                }
            }
        }
    }

    #[test]
    fn what_was_changed_is_refused() {
        let (bytes, secret) = encrypt(b"a layer's bytes");
        let mut flipped = bytes.clone();
        flipped[3] ^= 1;
        for (name, bytes) in [
            ("a flipped bit", &flipped[..]),
            ("a cut", &bytes[..bytes.len() - 1]),
            ("more", &[&bytes[..], b"x"].concat()),
        ] {
            let error = decrypt(bytes, &secret, 100).unwrap_err();
            assert!(error.to_string().contains("HMAC"), "{name}: {error}");
        }
    }
}
