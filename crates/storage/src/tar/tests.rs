use super::*;

/// Reads an archive to its end; all bytes must be accounted for.
fn read(tar: &[u8]) -> Result<Vec<Entry>, Error> {
    let mut stream = Stream::new(Source::new(tar, 1 << 30), 1000);
    let (mut entries, mut bytes) = (Vec::new(), Vec::new());
    while let Some(entry) = stream.next()? {
        bytes.append(stream.take_raw());
        loop {
            let piece = stream.data()?;
            if piece.is_empty() {
                break;
            }
            bytes.extend_from_slice(piece);
            let length = piece.len();
            stream.consume(length);
        }
        entries.push(entry);
    }
    bytes.append(stream.take_raw());
    loop {
        let piece = stream.trailing()?;
        if piece.is_empty() {
            break;
        }
        bytes.extend(piece);
    }
    assert_eq!(bytes, tar, "every byte is accounted for");
    assert_eq!(stream.finish(), (crate::Digest::of(tar), tar.len() as u64));
    Ok(entries)
}

fn block(name: &[u8], size: usize, type_flag: u8) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    block[..name.len()].copy_from_slice(name);
    block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    block[156] = type_flag;
    block[257..265].copy_from_slice(b"ustar  \0");
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    block
}

proptest::proptest! {
    #[test]
    fn whatever_can_be_read_is_accounted_for(
        names in proptest::collection::vec("[a-z/.]{1,90}", 0..6),
        flags in proptest::collection::vec(0_usize..10, 6),
        sizes in proptest::collection::vec(0_usize..1600, 6),
        flips in proptest::collection::vec((0_usize..20_000, 0_u8..=255), 0..3),
        tail in 0_usize..3000,
    ) {
        let mut tar = Vec::new();
        for ((name, flag), size) in names.iter().zip(flags).zip(sizes) {
            tar.extend(block(name.as_bytes(), size, b"00001235LK"[flag]));
            if matches!(flag, 0..=3 | 8..) {
                tar.resize(tar.len() + size.next_multiple_of(BLOCK), b'x');
            }
        }
        tar.resize(tar.len() + tail, 0);
        for (at, byte) in flips {
            if let Some(place) = tar.get_mut(at) {
                *place = byte;
            }
        }
        drop(read(&tar));
    }
}

#[test]
fn long_names_go_to_the_next_entry_only() {
    let long = b"n".repeat(300);
    let mut tar = block(b"././@LongLink", 301, b'L').to_vec();
    tar.extend(&long);
    tar.resize(2 * BLOCK, 0);
    tar.extend(block(b"short", 0, b'0'));
    tar.extend(block(b"next", 0, b'0'));
    let names: Vec<_> = read(&tar)
        .expect("well-formed")
        .into_iter()
        .map(|e| e.name)
        .collect();
    assert_eq!(names, [long, b"next".to_vec()]);
}

#[test]
fn extended_headers_without_an_entry_have_an_end() {
    let one = limits::EXTENDED_HEADER_BYTES.try_into().unwrap();
    for (flag, count, held) in [(b'L', 7, true), (b'L', 8, false), (b'K', 8, false)] {
        let mut tar = Vec::new();
        for _ in 0..count {
            tar.extend(block(b"././@LongLink", one, flag));
            tar.resize(tar.len() + one, b'a');
        }
        tar.extend(block(b"a", 0, b'0'));
        let read = read(&tar);
        let too_large = matches!(read, Err(Error::TooLarge { .. }));
        assert_eq!(
            (read.is_ok(), too_large),
            (held, !held),
            "{count} of {flag}"
        );
    }
    // Blocks of more map entries, all empty.
    let mut more = [0; BLOCK];
    more[504] = 1;
    let mut sparse = block(b"a", 0, b'S');
    sparse[482] = 1;
    sparse[148..156].fill(b' ');
    let sum: u32 = sparse.iter().map(|byte| u32::from(*byte)).sum();
    sparse[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    let tar = [sparse.to_vec(), more.repeat(limits::HEADER_BYTES / BLOCK)].concat();
    let mut stream = Stream::new(Source::new(&tar[..], 1 << 30), 1 << 30);
    assert!(matches!(stream.next(), Err(Error::TooLarge { .. })));
}
