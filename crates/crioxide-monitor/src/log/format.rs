//! The log format of the CRI: `TIME stdout|stderr F|P TEXT\n`.
//!
//! A line of up to [`LINE`] bytes is one full (`F`) record; of a longer one, each [`LINE`] bytes
//! are a partial (`P`) record, and its end is a full one. The output depends on nothing but the
//! arguments: after a crash the same bytes are written again at the same place.

use std::io::BufRead;

/// The longest text of a record. Containerd's and CRI-O's readers expect no more.
pub(crate) const LINE: usize = 16 * 1024;
/// Bytes of a record around its text: time, stream, tag, blanks, newline.
pub(crate) const RECORD_OVERHEAD: usize = STAMP + " stdout F \n".len();
/// A record's tag where it ends a line.
pub(super) const FULL: u8 = b'F';
/// Bytes of a time.
pub(super) const STAMP: usize = "2026-11-24T16:15:50.123456789Z".len();

/// A time as a record has it.
pub(crate) type Stamp = [u8; STAMP];

/// Appends records of what `data` starts with to `out`, until it has `limit` bytes, and returns
/// how many bytes of `data` they are. What follows the last newline is left, unless `flush` makes
/// it a partial record.
pub(crate) fn format(
    data: &[u8],
    stream: &str,
    stamp: &Stamp,
    flush: bool,
    limit: usize,
    out: &mut Vec<u8>,
) -> usize {
    let mut consumed = 0;
    while let Some(rest) = data.get(consumed..)
        && let Some(record) = next_record(rest, flush)
    {
        if !out.is_empty() && out.len() + record.text.len() + RECORD_OVERHEAD > limit {
            break;
        }
        out.extend_from_slice(stamp);
        out.push(b' ');
        out.extend_from_slice(stream.as_bytes());
        out.extend([b' ', if record.full { FULL } else { b'P' }, b' ']);
        out.extend_from_slice(record.text);
        out.push(b'\n');
        consumed += record.consumed;
    }
    consumed
}

struct Record<'a> {
    text: &'a [u8],
    full: bool,
    consumed: usize,
}

fn next_record(rest: &[u8], flush: bool) -> Option<Record<'_>> {
    let line = rest.get(..rest.len().min(LINE + 1)).unwrap_or(rest);
    // Libc's memchr, by way of std: 200 MB of lines took 740 ms of CPU, with `position`, in a build
    // for size, 1140.
    let mut behind = line;
    let through = behind.skip_until(b'\n').unwrap_or(0);
    if let Some(end) = through
        .checked_sub(1)
        .filter(|end| line.get(*end) == Some(&b'\n'))
    {
        return Some(Record {
            text: line.get(..end)?,
            full: true,
            consumed: end + 1,
        });
    }
    if line.len() > LINE {
        return Some(Record {
            text: line.get(..LINE)?,
            full: false,
            consumed: LINE,
        });
    }
    (flush && !line.is_empty()).then_some(Record {
        text: line,
        full: false,
        consumed: line.len(),
    })
}

/// A time, in UTC, with nanoseconds (RFC 3339).
pub(crate) fn stamp(nanos: u64) -> Stamp {
    let (seconds, nanos) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let mut out = *b"0000-00-00T00:00:00.000000000Z";
    let fields = [
        (0, 4, year),
        (5, 2, month),
        (8, 2, day),
        (11, 2, time / 3600),
        (14, 2, time / 60 % 60),
        (17, 2, time % 60),
        (20, 9, nanos),
    ];
    for (at, width, value) in fields {
        let mut value = value;
        for digit in out
            .get_mut(at..at + width)
            .unwrap_or_default()
            .iter_mut()
            .rev()
        {
            *digit = b"0123456789"
                .get(usize::try_from(value % 10).unwrap_or(0))
                .copied()
                .unwrap_or(b'0');
            value /= 10;
        }
    }
    out
}

/// Year, month and day of a day since 1970-01-01: counted in years that start in March, so that
/// the leap day is a year's last, in eras of 400 years (146,097 days).
fn civil(days: u64) -> (u64, u64, u64) {
    const FROM_YEAR_ZERO: u64 = 719_468;
    let days = days.saturating_add(FROM_YEAR_ZERO);
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let march_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plain(data: &[u8], flush: bool) -> (String, usize) {
        let mut out = Vec::new();
        let consumed = format(data, "stdout", &stamp(0), flush, usize::MAX, &mut out);
        (
            String::from_utf8(out)
                .unwrap()
                .replace("1970-01-01T00:00:00.000000000Z ", ""),
            consumed,
        )
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        for (nanos, text) in [
            (0, "1970-01-01T00:00:00.000000000Z"),
            (951_782_399_000_000_001, "2000-02-28T23:59:59.000000001Z"),
            (951_782_400_000_000_000, "2000-02-29T00:00:00.000000000Z"),
            (1_709_251_200_000_000_000, "2024-03-01T00:00:00.000000000Z"),
            (1_795_537_550_123_456_789, "2026-11-24T16:25:50.123456789Z"),
            (4_107_542_400_000_000_000, "2100-03-01T00:00:00.000000000Z"),
        ] {
            assert_eq!(std::str::from_utf8(&stamp(nanos)).unwrap(), text);
        }
    }

    #[test]
    fn lines_are_records_and_a_tail_waits() {
        assert_eq!(plain(b"", true), (String::new(), 0));
        assert_eq!(
            plain(b"a\n\nb", false),
            ("stdout F a\nstdout F \n".into(), 3)
        );
        assert_eq!(plain(b"a\nb", true), ("stdout F a\nstdout P b\n".into(), 3));
    }

    #[test]
    fn only_lines_beyond_the_limit_are_split() {
        let line = "x".repeat(LINE);
        let exact = format!("{line}\n");
        assert_eq!(
            plain(exact.as_bytes(), false),
            (format!("stdout F {line}\n"), LINE + 1)
        );
        assert_eq!(plain(line.as_bytes(), false), (String::new(), 0));
        let longer = format!("{line}yz\n");
        let records = format!("stdout P {line}\nstdout F yz\n");
        assert_eq!(plain(longer.as_bytes(), false), (records, LINE + 3));
    }

    #[test]
    fn no_more_than_the_limit_is_put_out_at_once() {
        let mut out = Vec::new();
        let limit = 3 * (RECORD_OVERHEAD + 1);
        let consumed = format(b"a\nb\nc\nd\n", "stdout", &stamp(0), false, limit, &mut out);
        assert_eq!((consumed, out.len()), (6, limit));
    }

    proptest! {
        /// What a crash makes us write again is what was written.
        #[test]
        fn the_consumed_bytes_alone_give_the_same_records(
            lines in prop::collection::vec((0usize..40_000, any::<u8>()), 0..6), flush: bool, limit in 0usize..90_000,
        ) {
            let mut data = Vec::new();
            for (length, byte) in lines {
                data.extend(std::iter::repeat_n(byte, length));
                data.push(b'\n');
            }
            data.pop();
            let (mut once, mut again) = (Vec::new(), Vec::new());
            let consumed = format(&data, "stderr", &stamp(5), flush, limit, &mut once);
            let all = format(&data[..consumed], "stderr", &stamp(5), true, usize::MAX, &mut again);
            prop_assert_eq!(all, consumed);
            prop_assert!(once == again);
        }
    }
}
