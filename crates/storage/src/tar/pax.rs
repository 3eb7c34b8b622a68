//! PAX extended headers (POSIX pax, "Extended Header"): records of `length key=value\n`.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::collections::HashSet;

use super::number;

/// The records of one extended header; of several with one key the last counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Records(Vec<(Vec<u8>, Vec<u8>)>);

impl Records {
    /// Parses a whole extended header. `None` where it is damaged.
    pub(crate) fn parse(mut bytes: &[u8]) -> Option<Self> {
        let mut records = Vec::new();
        while !bytes.is_empty() {
            let space = bytes.iter().position(|byte| *byte == b' ')?;
            let length = usize::try_from(number::decimal(bytes.get(..space)?)?).ok()?;
            let record = bytes
                .get(space.checked_add(1)?..length)?
                .strip_suffix(b"\n")?;
            let equals = record.iter().position(|byte| *byte == b'=')?;
            let (key, value) = (record.get(..equals)?, record.get(equals.checked_add(1)?..)?);
            let text = matches!(key, b"path" | b"linkpath" | b"uname" | b"gname");
            if key.is_empty() || key.contains(&0) || (text && value.contains(&0)) {
                return None;
            }
            records.push((key.to_vec(), value.to_vec()));
            bytes = bytes.get(length..)?;
        }
        Some(Self(records))
    }

    /// The value of `key`; an empty one means "as the header block says" and counts as none.
    pub(crate) fn get(&self, key: &[u8]) -> Option<&[u8]> {
        let (_, value) = self.0.iter().rev().find(|(found, _)| found == key)?;
        (!value.is_empty()).then_some(value.as_slice())
    }

    /// All values of `key` in their order: GNU's first sparse format repeats its keys.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.0
            .iter()
            .map(|(key, value)| (key.as_slice(), value.as_slice()))
    }

    /// Extended attributes, as star's `SCHILY.xattr.` records tell them; the last of a name.
    pub(crate) fn xattrs(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        // From the last on, with a set: a header holds 60,000 records.
        let (mut seen, mut xattrs) = (HashSet::new(), Vec::new());
        for (key, value) in self.0.iter().rev() {
            let Some(name) = key.strip_prefix(b"SCHILY.xattr.") else {
                continue;
            };
            if seen.insert(name) && !value.is_empty() && !name.is_empty() {
                xattrs.push((name.to_vec(), value.clone()));
            }
        }
        xattrs.reverse();
        xattrs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_as_long_as_they_say() {
        for (bytes, good) in [
            (&b""[..], true),
            (b"6 a=1\n", true),
            (b"5 a=\n", true),
            (b"6 a=1\n6 a=2\n", true),
            (b"7 a=1\n", false),
            (b"6 a=1 ", false),
            (b"6 a-1\n", false),
            (b"5 =1\n", false),
            (b"3 a\n", false),
            (b"99999999999999999999 a=1\n", false),
            (b"-6 a=1\n", false),
            (b"06 a=1\n", false),
            (b"12 path=a\0b\n", false),
            (b"6 a=\0\n", true),
        ] {
            assert_eq!(Records::parse(bytes).is_some(), good, "{bytes:?}");
        }
        let records = Records::parse(b"6 a=1\n6 a=2\n5 b=\n").unwrap();
        assert_eq!(records.get(b"a"), Some(&b"2"[..]));
        assert_eq!(records.get(b"b"), None);
    }
}
