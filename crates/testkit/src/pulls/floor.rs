//! What a pull can't be faster than: the same bytes fetched, inflated and written as the same files,
//! each layer by a thread, without checking, recording or committing anything.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::thread;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use zlib_rs::{Inflate, InflateFlush};

const BLOCK: usize = 512;
const BUFFER: usize = 1 << 20;

/// Fetches the image `name:1` from the registry at `addr` into `directory`.
///
/// # Errors
/// The registry or the disk fails, or the image is not of a kind that our own maker writes.
pub(super) fn pull(addr: SocketAddr, name: &str, directory: &Path) -> Result<()> {
    let mut manifest = Vec::new();
    get(addr, &format!("/v2/{name}/manifests/1"))?.read_to_end(&mut manifest)?;
    let manifest: Value = serde_json::from_slice(&manifest)?;
    let layers = manifest["layers"].as_array().context("no layers")?;
    thread::scope(|scope| {
        let threads: Vec<_> = layers
            .iter()
            .enumerate()
            .map(|(at, layer)| {
                let into = directory.join(at.to_string());
                scope.spawn(move || {
                    let digest = layer["digest"].as_str().context("no digest")?;
                    fs::create_dir_all(&into)?;
                    let blob = get(addr, &format!("/v2/{name}/blobs/{digest}"))?;
                    match layer["mediaType"].as_str() {
                        Some(kind) if kind.ends_with("zstd") => {
                            unpack(zstd::stream::read::Decoder::new(blob)?, &into)
                        }
                        _ => unpack(Gzip::new(blob), &into),
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().ok().context("a thread panicked")??;
        }
        Ok(())
    })
}

fn get(addr: SocketAddr, path: &str) -> Result<impl Read + use<>> {
    let mut stream = TcpStream::connect(addr)?;
    let accept = "application/vnd.oci.image.manifest.v1+json";
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {addr}\r\nAccept: {accept}\r\nConnection: close\r\n\r\n"
    )?;
    let mut reader = BufReader::with_capacity(BUFFER, stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    ensure!(line.contains(" 200 "), "{path}: {line}");
    let mut length = None;
    while !line.trim().is_empty() {
        line.clear();
        reader.read_line(&mut line)?;
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().ok();
        }
    }
    Ok(reader.take(length.context("no length")?))
}

/// One member of gzip, as our maker writes it.
struct Gzip<R> {
    inner: BufReader<R>,
    inflate: Inflate,
}

impl<R: Read> Gzip<R> {
    fn new(inner: R) -> Self {
        Self {
            inner: BufReader::with_capacity(BUFFER, inner),
            inflate: Inflate::new(true, 15 + 16),
        }
    }
}

impl<R: Read> Read for Gzip<R> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        loop {
            let input = self.inner.fill_buf()?;
            if input.is_empty() || into.is_empty() {
                return Ok(0);
            }
            let (taken, made) = (self.inflate.total_in(), self.inflate.total_out());
            let done = self.inflate.decompress(input, into, InflateFlush::NoFlush);
            done.map_err(|error| std::io::Error::other(error.as_str()))?;
            let advanced = |before, now: u64| usize::try_from(now - before).unwrap_or(0);
            self.inner.consume(advanced(taken, self.inflate.total_in()));
            let made = advanced(made, self.inflate.total_out());
            if made > 0 {
                return Ok(made);
            }
        }
    }
}

/// Files and directories of a ustar archive.
fn unpack(tar: impl Read, into: &Path) -> Result<()> {
    let mut tar = BufReader::with_capacity(BUFFER, tar);
    let mut block = [0; BLOCK];
    loop {
        tar.read_exact(&mut block)?;
        if block[0] == 0 {
            return Ok(());
        }
        let text = |from: usize, length: usize| {
            let field = &block[from..from + length];
            let end = field.iter().position(|byte| *byte == 0).unwrap_or(length);
            String::from_utf8_lossy(&field[..end]).trim().to_owned()
        };
        let path = match text(345, 155) {
            prefix if prefix.is_empty() => into.join(text(0, 100)),
            prefix => into.join(prefix).join(text(0, 100)),
        };
        let size = u64::from_str_radix(&text(124, 12), 8)?;
        match block[156] {
            b'5' => fs::create_dir_all(path)?,
            b'0' => {
                let size = usize::try_from(size)?;
                pass(&mut tar, size, &mut File::create(path)?)?;
                pass(
                    &mut tar,
                    size.next_multiple_of(BLOCK) - size,
                    &mut std::io::sink(),
                )?;
            }
            kind => bail!("an entry of type {kind}"),
        }
    }
}

/// Straight from the buffer: the small pieces of `std::io::copy` would not be a floor.
fn pass(from: &mut impl BufRead, mut left: usize, to: &mut impl Write) -> Result<()> {
    while left > 0 {
        let piece = from.fill_buf()?;
        ensure!(!piece.is_empty(), "the archive ends within a file");
        let length = piece.len().min(left);
        to.write_all(&piece[..length])?;
        from.consume(length);
        left -= length;
    }
    Ok(())
}
