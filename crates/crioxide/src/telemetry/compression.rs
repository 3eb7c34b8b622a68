//! gzip for scrapers that take it, as Prometheus does.

use http::{HeaderMap, header};
use zlib_rs::{Deflate, DeflateFlush, Status};

/// 32 KiB of window, and 16 to ask for gzip's header and trailer instead of zlib's.
const WINDOW: u8 = 15 + 16;
/// Most of the gain for little of the time: names are long and come again and again.
const LEVEL: i32 = 3;

/// Whether a scraper says that it takes gzip (RFC 9110, 12.5.3).
pub(super) fn is_wanted(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(header::ACCEPT_ENCODING).into_iter();
    let codings = lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','));
    for coding in codings {
        let (name, parameters) = coding.split_once(';').unwrap_or((coding, ""));
        if !name.trim().eq_ignore_ascii_case("gzip") {
            continue;
        }
        let weight = parameters.trim().strip_prefix("q=").unwrap_or("1");
        return weight.parse().is_ok_and(|weight: f32| weight > 0.0);
    }
    false
}

/// The text, gzipped; `None` where that fails.
pub(super) fn gzip(text: &str) -> Option<Vec<u8>> {
    let mut deflate = Deflate::new(LEVEL, true, WINDOW);
    let (mut packed, mut buffer) = (Vec::new(), vec![0; 16 * 1024]);
    let mut rest = text.as_bytes();
    loop {
        let (read, made) = (deflate.total_in(), deflate.total_out());
        let status = deflate.compress(rest, &mut buffer, DeflateFlush::Finish);
        let step = |before: u64, after: u64| usize::try_from(after - before).unwrap_or(usize::MAX);
        rest = rest
            .get(step(read, deflate.total_in())..)
            .unwrap_or_default();
        let made = step(made, deflate.total_out()).min(buffer.len());
        packed.extend_from_slice(buffer.get(..made).unwrap_or_default());
        match status {
            Ok(Status::StreamEnd) => return Some(packed),
            Ok(_) if made > 0 => {}
            Ok(_) | Err(_) => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_for_those_who_take_it() {
        for (sent, wanted) in [
            ("gzip", true),
            ("deflate, GZIP;q=0.5", true),
            ("gzip;q=0", false),
            ("gzip; q=0.0", false),
            ("br", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.append(header::ACCEPT_ENCODING, sent.parse().unwrap());
            assert_eq!(is_wanted(&headers), wanted, "{sent:?}");
        }
    }
}
