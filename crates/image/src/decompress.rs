//! Decompression of layers: gzip of any number of members, zstd of any number of frames, bzip2 and
//! xz of any number of streams, or nothing. The content decides, not the media type, which
//! registries get wrong.

use std::io::{self, BufRead, Read};

use storage::Compression;
use zlib_rs::{Inflate, InflateFlush, Status};

use crate::blob::PieceReader;
use crate::limits;

/// 32 KiB of window, and 16 to ask for gzip's header and trailer.
const GZIP_WINDOW: u8 = 15 + 16;

/// How a blob is compressed, by its first bytes.
pub(crate) fn detect(blob: &mut PieceReader) -> io::Result<Compression> {
    Ok(by_magic(blob.peek(6)?))
}

pub(crate) fn by_magic(head: &[u8]) -> Compression {
    match head {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
        [b'B', b'Z', b'h', ..] => Compression::Bzip2,
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Compression::Xz,
        _ => Compression::None,
    }
}

/// What the blob is, uncompressed. The reader ends where the blob does: a cut or garbage after
/// the last member is an error.
pub(crate) fn reader<'a>(
    compression: Compression,
    blob: impl BufRead + 'a,
) -> io::Result<Box<dyn Read + 'a>> {
    Ok(match compression {
        Compression::Gzip => Box::new(GzipReader::new(blob)),
        Compression::Zstd => {
            let mut zstd = zstd::stream::read::Decoder::with_buffer(blob)?;
            zstd.window_log_max(limits::ZSTD_WINDOW_LOG)?;
            Box::new(zstd)
        }
        // Its blocks are at most 900 kB: a few megabytes of memory.
        Compression::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(blob)),
        Compression::Xz => Box::new(lzma_rust2::XzReader::new_mem_limit(
            blob,
            true,
            limits::XZ_MEMORY_KIB,
        )),
        Compression::None => Box::new(blob),
    })
}

fn invalid(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}

/// zlib-rs used directly is a third faster than behind a wrapper; several members after each
/// other (RFC 1952, 2.2) are then ours to see.
struct GzipReader<R> {
    inflate: Inflate,
    in_member: bool,
    inner: R,
}

impl<R: BufRead> GzipReader<R> {
    fn new(inner: R) -> Self {
        Self {
            inflate: Inflate::new(true, GZIP_WINDOW),
            in_member: false,
            inner,
        }
    }

    fn step(&mut self, output: &mut [u8]) -> io::Result<Option<usize>> {
        let input = self.inner.fill_buf()?;
        if input.is_empty() {
            return match self.in_member {
                false => Ok(Some(0)),
                true => Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "gzip stream is truncated",
                )),
            };
        }
        if !self.in_member {
            if input.first() != Some(&0x1f) {
                return Err(invalid("garbage after the gzip stream"));
            }
            // `reset` would expect zlib's header from there on.
            self.inflate = Inflate::new(true, GZIP_WINDOW);
            self.in_member = true;
        }
        let (taken, made) = (self.inflate.total_in(), self.inflate.total_out());
        let status = self
            .inflate
            .decompress(input, output, InflateFlush::NoFlush)
            .map_err(|error| invalid(format!("gzip: {}", error.as_str())))?;
        let taken = advanced(taken, self.inflate.total_in());
        let made = advanced(made, self.inflate.total_out());
        self.in_member = status != Status::StreamEnd;
        self.inner.consume(taken);
        if made == 0 && taken == 0 && self.in_member {
            return Err(invalid("gzip: no progress"));
        }
        Ok((made > 0).then_some(made))
    }
}

impl<R: BufRead> Read for GzipReader<R> {
    fn read(&mut self, output: &mut [u8]) -> io::Result<usize> {
        if output.is_empty() {
            return Ok(0);
        }
        loop {
            if let Some(length) = self.step(output)? {
                return Ok(length);
            }
        }
    }
}

/// How far a total went in one call, which is at most a buffer's size.
fn advanced(before: u64, after: u64) -> usize {
    usize::try_from(after - before).expect("no call goes farther than its buffer")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob;
    use std::io::Write;
    use storage::Digest;
    use zlib_rs::{Deflate, DeflateFlush};

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut deflate = Deflate::new(6, true, GZIP_WINDOW);
        let mut output = vec![0; bytes.len() + 1000];
        let status = deflate
            .compress(bytes, &mut output, DeflateFlush::Finish)
            .unwrap();
        assert_eq!(status, Status::StreamEnd);
        output.truncate(usize::try_from(deflate.total_out()).unwrap());
        output
    }

    fn bzip2(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = bzip2::read::BzEncoder::new(bytes, bzip2::Compression::fast());
        let mut output = Vec::new();
        encoder.read_to_end(&mut output).unwrap();
        output
    }

    fn xz(bytes: &[u8], options: lzma_rust2::XzOptions) -> Vec<u8> {
        let mut writer = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
        writer.write_all(bytes).unwrap();
        writer.finish().unwrap()
    }

    /// Decodes bytes that come in pieces of that size.
    fn decode(bytes: &[u8], piece: usize) -> io::Result<Vec<u8>> {
        let digest = Digest::of(bytes);
        let (sender, mut reader_end) = blob::channel(&digest);
        let pieces: Vec<_> = bytes
            .chunks(piece)
            .map(bytes::Bytes::copy_from_slice)
            .collect();
        let feeder = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .build()
                .unwrap();
            runtime.block_on(async {
                for piece in pieces {
                    if sender.send(piece).await.is_err() {
                        return;
                    }
                }
                let _gone = sender.end().await;
            });
        });
        let mut decoded = Vec::new();
        let compression = detect(&mut reader_end)?;
        reader(compression, &mut reader_end)?.read_to_end(&mut decoded)?;
        assert!(reader_end.verify()?.is_ok());
        feeder.join().unwrap();
        Ok(decoded)
    }

    #[test]
    fn every_compression_is_decoded_however_it_is_cut() {
        let text: Vec<u8> = (0..200_000_u32)
            .flat_map(|n| (n / 7).to_le_bytes())
            .collect();
        let zstd = zstd::stream::encode_all(&text[..], 3).unwrap();
        let preset = lzma_rust2::XzOptions::with_preset(3);
        let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 9, 9], &zstd[..]].concat();
        for (name, bytes, times) in [
            ("gzip", gzip(&text), 1),
            ("two members", gzip(&text).repeat(2), 2),
            ("zstd", zstd.clone(), 1),
            ("two frames", zstd.repeat(2), 2),
            ("skippable frame first", skippable, 1),
            ("bzip2", bzip2(&text), 1),
            ("two streams of bzip2", bzip2(&text).repeat(2), 2),
            ("xz", xz(&text, preset.clone()), 1),
            ("two streams of xz", xz(&text, preset).repeat(2), 2),
            ("nothing", text.clone(), 1),
        ] {
            for piece in [1, 3, 1000, 1 << 20] {
                if piece == 1 && bytes.len() > 300_000 {
                    continue;
                }
                assert!(
                    decode(&bytes, piece).unwrap() == text.repeat(times),
                    "{name} by {piece}"
                );
            }
        }
        assert!(decode(b"", 1).unwrap().is_empty());
    }

    #[test]
    fn cuts_garbage_and_unread_kinds_are_errors() {
        let text = b"some text that is long enough".repeat(100);
        let (gzip, zstd) = (gzip(&text), zstd::stream::encode_all(&text[..], 3).unwrap());
        let (bzip2, xz) = (
            bzip2(&text),
            xz(&text, lzma_rust2::XzOptions::with_preset(3)),
        );
        for (name, bytes) in [
            ("cut gzip", gzip[..gzip.len() - 1].to_vec()),
            ("cut zstd", zstd[..zstd.len() - 1].to_vec()),
            ("garbage after gzip", [&gzip[..], b"garbage"].concat()),
            ("garbage after zstd", [&zstd[..], b"garbage"].concat()),
            ("bad checksum", [&gzip[..gzip.len() - 8], &[0; 8]].concat()),
            ("gzip header only", gzip[..3].to_vec()),
            ("cut bzip2", bzip2[..bzip2.len() - 1].to_vec()),
            ("garbage after bzip2", [&bzip2[..], b"garbage"].concat()),
            ("bzip2 header only", bzip2[..4].to_vec()),
            ("cut xz", xz[..xz.len() - 1].to_vec()),
            ("garbage after xz", [&xz[..], b"garbage"].concat()),
            ("xz magic only", xz[..6].to_vec()),
        ] {
            assert!(decode(&bytes, 100).is_err(), "{name}");
        }
    }

    #[test]
    fn an_xz_dictionary_larger_than_that_of_the_highest_preset_is_refused() {
        let text = b"little text";
        let with = |dictionary: u32| {
            let mut options = lzma_rust2::XzOptions::with_preset(0);
            options.lzma_options.dict_size = dictionary;
            xz(text, options)
        };
        assert_eq!(decode(&with(64 << 20), 100).unwrap(), text);
        let error = decode(&with(128 << 20), 100).unwrap_err();
        assert!(error.to_string().contains("memory"), "{error}");
    }
}
