//! Numbers in tar headers: octal digits, or base 256 as GNU and star write what is too large.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

/// A field of a header as a number; `None` where it is none or does not fit.
pub(crate) fn parse(field: &[u8]) -> Option<i64> {
    match field.first() {
        Some(first) if first & 0x80 != 0 => base256(field),
        _ => octal(field).and_then(|value| value.try_into().ok()),
    }
}

/// Big-endian two's complement; the first byte's highest bit only marks the form.
fn base256(field: &[u8]) -> Option<i64> {
    let (first, rest) = field.split_first()?;
    let negative = first & 0x40 != 0;
    let flip = if negative { 0xff } else { 0 };
    let mut value: u64 = u64::from((first ^ flip) & 0x7f);
    for byte in rest {
        if value >> 56 != 0 {
            return None;
        }
        value = value << 8 | u64::from(byte ^ flip);
    }
    let value = i64::try_from(value).ok()?;
    Some(if negative { !value } else { value })
}

/// Octal digits among spaces and NULs; nothing at all is 0, as an unused field is full of NULs.
pub(crate) fn octal(field: &[u8]) -> Option<u64> {
    let blank = |byte: &u8| matches!(byte, b' ' | 0);
    let start = field
        .iter()
        .position(|byte| !blank(byte))
        .unwrap_or(field.len());
    let field = field.get(start..)?;
    let end = field
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(field.len());
    let digits = field.get(..end)?;
    let end = digits
        .iter()
        .rposition(|byte| *byte != b' ')
        .map_or(0, |last| last.saturating_add(1));
    let mut value: u64 = 0;
    for digit in digits.get(..end)? {
        if !matches!(digit, b'0'..=b'7') || value >> 61 != 0 {
            return None;
        }
        value = value << 3 | u64::from(digit & 7);
    }
    Some(value)
}

/// Decimal digits, as PAX writes a size or an owner.
pub(crate) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// A PAX time, `-?seconds[.fraction]`: seconds and 0 to 999,999,999 nanoseconds after them.
pub(crate) fn pax_time(text: &[u8]) -> Option<(i64, i64)> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let negative = whole.starts_with('-');
    let digits = whole.strip_prefix('-').unwrap_or(whole);
    if digits.is_empty()
        || !digits
            .bytes()
            .chain(fraction.bytes())
            .all(|c| c.is_ascii_digit())
    {
        return None;
    }
    let seconds: i64 = whole.parse().ok()?;
    let nanoseconds: i64 = format!("{:0<9.9}", fraction).parse().ok()?;
    if negative && nanoseconds > 0 {
        Some((
            seconds.checked_sub(1)?,
            1_000_000_000_i64.checked_sub(nanoseconds)?,
        ))
    } else {
        Some((seconds, nanoseconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_octal_or_base_256() {
        for (field, value) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"00000001750\0", Some(1000)),
            (b"77777777777 ", Some(8_589_934_591)),
            (b"\0\0\0\0", Some(0)),
            (b"    ", Some(0)),
            (b"12\0junk", Some(0o12)),
            (b"8", None),
            (b"-1", None),
            (b"1 2", None),
            (b"\x80\0\0\0\0\0\0\x02\0\0\0\0", Some(8_589_934_592)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
            (b"\x80\x7f\xff\xff\xff\xff\xff\xff\xff", Some(i64::MAX)),
            (b"\x80\xff\xff\xff\xff\xff\xff\xff\xff", None),
            (b"\x80\x01\0\0\0\0\0\0\0\0", None),
        ] {
            assert_eq!(parse(field), value, "{field:?}");
        }
    }

    #[test]
    fn pax_times_have_nanoseconds_and_may_be_before_the_epoch() {
        for (text, time) in [
            ("0", Some((0, 0))),
            ("1700000000.123456789", Some((1_700_000_000, 123_456_789))),
            ("1.5", Some((1, 500_000_000))),
            ("1.0000000009", Some((1, 0))),
            ("-1.25", Some((-2, 750_000_000))),
            ("-1", Some((-1, 0))),
            ("1.", Some((1, 0))),
            ("", None),
            ("-", None),
            ("+1", None),
            ("1.x", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(pax_time(text.as_bytes()), time, "{text:?}");
        }
    }
}
