//! Archives made by hand, byte by byte: what no well-meaning tar writes.

/// An archive in the making.
#[derive(Clone, Default)]
pub(crate) struct Archive(pub(crate) Vec<u8>);

/// One header block to be.
#[derive(Clone)]
pub(crate) struct Header {
    pub(crate) name: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) type_flag: u8,
    pub(crate) mode: u32,
    pub(crate) uid: Vec<u8>,
    pub(crate) gid: Vec<u8>,
    pub(crate) size: u64,
    pub(crate) modified: u64,
    pub(crate) device: (u32, u32),
    pub(crate) gnu: bool,
}

pub(crate) fn header(type_flag: u8, name: &str) -> Header {
    Header {
        name: name.into(),
        link: Vec::new(),
        type_flag,
        mode: if matches!(type_flag, b'5' | b'2') {
            0o755
        } else {
            0o644
        },
        uid: b"0000000\0".to_vec(),
        gid: b"0000000\0".to_vec(),
        size: 0,
        modified: 1_600_000_000,
        device: (0, 0),
        gnu: false,
    }
}

impl Header {
    pub(crate) fn link(mut self, link: &str) -> Self {
        self.link = link.into();
        self
    }
    pub(crate) fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }
    pub(crate) fn size(mut self, size: u64) -> Self {
        self.size = size;
        self
    }

    pub(crate) fn block(&self) -> [u8; 512] {
        let mut block = [0; 512];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &self.name);
        put(100, format!("{:07o}\0", self.mode).as_bytes());
        put(108, &self.uid);
        put(116, &self.gid);
        put(124, format!("{:011o}\0", self.size).as_bytes());
        put(136, format!("{:011o}\0", self.modified).as_bytes());
        put(148, b"        ");
        put(156, &[self.type_flag]);
        put(157, &self.link);
        put(
            257,
            if self.gnu {
                b"ustar  \0"
            } else {
                b"ustar\x0000"
            },
        );
        put(329, format!("{:07o}\0", self.device.0).as_bytes());
        put(337, format!("{:07o}\0", self.device.1).as_bytes());
        checksum(&mut block);
        block
    }
}

pub(crate) fn checksum(block: &mut [u8; 512]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

impl Archive {
    pub(crate) fn block(mut self, block: &[u8; 512]) -> Self {
        self.0.extend_from_slice(block);
        self
    }
    pub(crate) fn add(self, header: &Header) -> Self {
        self.block(&header.block())
    }
    /// Data, filled up to a block.
    pub(crate) fn data(mut self, data: &[u8]) -> Self {
        self.0.extend_from_slice(data);
        let filled = self.0.len().next_multiple_of(512);
        self.0.resize(filled, 0);
        self
    }
    pub(crate) fn file(self, name: &str, data: &str) -> Self {
        self.add(&header(b'0', name).size(data.len() as u64))
            .data(data.as_bytes())
    }
    pub(crate) fn dir(self, name: &str) -> Self {
        self.add(&header(b'5', name))
    }
    pub(crate) fn symlink(self, name: &str, to: &str) -> Self {
        self.add(&header(b'2', name).link(to).mode(0o777))
    }
    pub(crate) fn hard_link(self, name: &str, to: &str) -> Self {
        self.add(&header(b'1', name).link(to))
    }
    /// A PAX header of those records.
    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut data = Vec::new();
        for (key, value) in records {
            let mut length = key.len() + value.len() + 3;
            length += (length + length.to_string().len()).to_string().len();
            data.extend_from_slice(format!("{length} {key}=").as_bytes());
            data.extend_from_slice(value);
            data.push(b'\n');
        }
        self.add(&header(b'x', "pax").size(data.len() as u64))
            .data(&data)
    }
    /// The archive with its two blocks of zeros.
    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

/// A small base layer: directories, a file, a program, a link.
pub(crate) fn base() -> Vec<u8> {
    Archive::default()
        .dir("./")
        .dir("etc/")
        .file("etc/hostname", "base\n")
        .dir("bin/")
        .add(&header(b'0', "bin/tool").mode(0o4755).size(3))
        .data(b"abc")
        .symlink("bin/t", "tool")
        .hard_link("bin/tool2", "bin/tool")
        .end()
}
