//! Random bytes for ids and tokens.

use rustix::rand::{GetRandomFlags, getrandom};

/// `N` bytes of the kernel's generator (getrandom(2)).
///
/// # Panics
/// When the kernel gives none, which it does for more than 256 bytes only, or before it is seeded
/// at boot; nothing that needs an id can go on then.
#[must_use]
pub fn bytes<const N: usize>() -> [u8; N] {
    const { assert!(N <= 256, "getrandom(2) is whole up to 256 bytes") };
    let mut bytes = [0; N];
    let got = getrandom(&mut bytes[..], GetRandomFlags::empty());
    assert_eq!(got, Ok(N), "getrandom(2) fills small buffers");
    bytes
}
