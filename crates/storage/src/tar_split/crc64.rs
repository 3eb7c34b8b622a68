//! CRC-64 of ISO 3309, reflected, as Go's `hash/crc64` has it; eight bytes a step.

/// The polynomial, its bits in reverse.
const ISO: u64 = 0xd800_0000_0000_0000;

static TABLES: [[u64; 256]; 8] = tables();

const fn tables() -> [[u64; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut n = 0;
    while n < 256 {
        let mut crc = n as u64;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 {
                crc >> 1 ^ ISO
            } else {
                crc >> 1
            };
            bit += 1;
        }
        tables[0][n] = crc;
        n += 1;
    }
    let mut table = 1;
    while table < 8 {
        let mut n = 0;
        while n < 256 {
            let crc = tables[table - 1][n];
            tables[table][n] = tables[0][(crc & 0xff) as usize] ^ crc >> 8;
            n += 1;
        }
        table += 1;
    }
    tables
}

/// A checksum in the making.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crc64(u64);

impl Crc64 {
    pub(crate) fn new() -> Self {
        Self(!0)
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        let mut crc = self.0;
        let (eights, rest) = bytes.as_chunks::<8>();
        for eight in eights {
            let [a, b, c, d, e, f, g, h] = (crc ^ u64::from_le_bytes(*eight)).to_le_bytes();
            crc = TABLES[7][usize::from(a)]
                ^ TABLES[6][usize::from(b)]
                ^ TABLES[5][usize::from(c)]
                ^ TABLES[4][usize::from(d)]
                ^ TABLES[3][usize::from(e)]
                ^ TABLES[2][usize::from(f)]
                ^ TABLES[1][usize::from(g)]
                ^ TABLES[0][usize::from(h)];
        }
        for byte in rest {
            let [low, ..] = crc.to_le_bytes();
            crc = TABLES[0][usize::from(low ^ byte)] ^ crc >> 8;
        }
        self.0 = crc;
    }

    pub(crate) fn finish(self) -> u64 {
        !self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_the_standard_in_any_pieces() {
        // The check value of CRC-64/GO-ISO in the catalogue of parametrised CRC algorithms.
        for pieces in [1, 2, 8, 9] {
            let mut crc = Crc64::new();
            b"123456789"
                .chunks(pieces)
                .for_each(|piece| crc.update(piece));
            assert_eq!(crc.finish(), 0xb909_56c7_75a4_1001);
        }
        assert_eq!(Crc64::new().finish(), 0);
    }
}
