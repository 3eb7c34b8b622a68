//! Messages between a daemon and its worker: a length, and JSON.

use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::limits;

/// Bytes of the length.
const HEADER: usize = 4;

/// A message as it is sent.
///
/// # Errors
/// It is larger than any may be, or is no JSON (a path that is not UTF-8).
pub(super) fn encode<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; HEADER];
    serde_json::to_writer(&mut bytes, message)?;
    let length = bytes.len().saturating_sub(HEADER);
    let length = u32::try_from(length)
        .ok()
        .filter(|_| length <= limits::WORKER_MESSAGE_BYTES)
        .ok_or_else(|| too_large(length))?;
    bytes[..HEADER].copy_from_slice(&length.to_le_bytes());
    Ok(bytes)
}

/// How many bytes follow a header.
///
/// # Errors
/// More than any message has.
pub(super) fn length(header: [u8; HEADER]) -> io::Result<usize> {
    let length = usize::try_from(u32::from_le_bytes(header)).unwrap_or(usize::MAX);
    match length <= limits::WORKER_MESSAGE_BYTES {
        true => Ok(length),
        false => Err(too_large(length)),
    }
}

/// Reads one message; `None` at the end of the stream, within a message too.
///
/// # Errors
/// It is none of ours.
pub(super) async fn read<T: DeserializeOwned>(
    from: &mut (impl AsyncRead + Unpin),
) -> io::Result<Option<T>> {
    let mut header = [0; HEADER];
    let whole = async {
        from.read_exact(&mut header).await?;
        let mut body = vec![0; length(header)?];
        from.read_exact(&mut body).await?;
        Ok(serde_json::from_slice(&body)?)
    };
    match whole.await {
        Ok(message) => Ok(Some(message)),
        Err(ended) if ended_early(&ended) => Ok(None),
        Err(error) => Err(error),
    }
}

/// `serde_json` says the same of a message that lacks an end: that is no end of the stream.
fn ended_early(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::UnexpectedEof
        && error
            .get_ref()
            .is_none_or(|inner| !inner.is::<serde_json::Error>())
}

fn too_large(length: usize) -> io::Error {
    io::Error::other(format!("a message of {length} bytes"))
}

/// What a worker says: a message that is read is the one that was sent.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz(bytes: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.expect("a runtime without drivers");
    let mut rest = bytes;
    while let Ok(Some(word)) = runtime.block_on(read::<super::Word>(&mut rest)) {
        let sent = encode(&word).expect("it was read");
        let again = runtime.block_on(read::<super::Word>(&mut &sent[..]));
        let again = again.expect("it is ours").expect("it is whole");
        assert_eq!(format!("{again:?}"), format!("{word:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::worker::Word;

    #[tokio::test]
    async fn errors_come_with_their_words_and_kinds() {
        let refused = trust::Refused {
            image: "a.io/b".into(),
            scope: "default".into(),
            reason: "no".into(),
            path: "/p".into(),
        };
        for error in [
            Error::Refused(refused),
            Error::NotFound {
                reference: "a.io/b:1".into(),
                detail: "manifest unknown".into(),
            },
            Error::Sources {
                last: Box::new(Error::NoSpace("disk full".into())),
                mirrors: vec!["m: x".into()],
            },
        ] {
            let sent = encode(&Word::End(Err(error))).unwrap();
            let Word::End(Err(told)) = read(&mut &sent[..]).await.unwrap().unwrap() else {
                panic!("another message");
            };
            let again = encode(&Word::End(Err(told))).unwrap();
            assert_eq!(again, sent);
        }
    }

    #[tokio::test]
    async fn what_is_cut_is_the_end_and_what_is_wrong_is_an_error() {
        let sent = encode(&"text").unwrap();
        for cut in 0..sent.len() {
            let read = read::<String>(&mut &sent[..cut]).await;
            assert_eq!(read.unwrap(), None, "{cut}");
        }
        for wrong in [&b"\x01\0\0\0\""[..], b"\x02\0\0\0{}", b"\xff\xff\xff\xff"] {
            assert!(read::<String>(&mut &wrong[..]).await.is_err(), "{wrong:?}");
        }
        let large = "a".repeat(limits::WORKER_MESSAGE_BYTES);
        assert!(encode(&large).is_err());
    }
}
