//! What the fuzz targets do with decoders that this crate keeps to itself.

use crate::limits;
use crate::session::Sizes;

/// Sizes of a terminal, in pieces of any length: what is held is bounded, a size is never of
/// nothing, whole sizes are found however they are cut, and after nonsense the next sizes are.
///
/// # Panics
/// One of these is not so.
pub fn sizes(bytes: &[u8]) {
    let mut sizes = Sizes::default();
    let mut rest = bytes;
    while let Some((length, after)) = rest.split_first() {
        let (piece, after) = after.split_at(usize::from(*length).min(after.len()));
        let size = sizes.push(piece);
        assert!(size.is_none_or(|size| size.rows > 0 && size.columns > 0));
        assert!(sizes.held() <= limits::SIZE_BYTES);
        rest = after;
    }
    // An unfinished string, list or map may swallow some of them.
    let good = br#"{"Width":91,"Height":27}"#;
    let found = (0..limits::SIZE_BYTES).any(|_| sizes.push(good).is_some());
    assert!(found, "a client's sizes are heard again");

    let (columns, rows) = match bytes {
        [a, b, c, d, ..] => (u16::from_le_bytes([*a, *b]), u16::from_le_bytes([*c, *d])),
        _ => (1, 1),
    };
    let text = format!(
        "{good}{{\"Width\":{columns},\"Height\":{rows}}}",
        good = String::from_utf8_lossy(good)
    );
    let cut = bytes.get(4).map_or(0, |cut| usize::from(*cut) % text.len());
    let mut sizes = Sizes::default();
    let (first, second) = text.as_bytes().split_at(cut);
    let early = sizes.push(first);
    let last = sizes.push(second).or(early);
    let last = last.map(|size| (size.columns, size.rows));
    if columns > 0 && rows > 0 {
        assert_eq!(last, Some((columns, rows)), "cut at {cut}: {text}");
    }
}
