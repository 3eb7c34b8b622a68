//! Keys and certificates that a policy names: in files, or in the policy itself.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::json::Object;
use crate::limits::KEY_BYTES;

/// Where keys or certificates are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Material {
    /// Files, each with one or more.
    Files(Vec<PathBuf>),
    /// The contents of such files.
    Data(Vec<Vec<u8>>),
}

/// The keys of a policy under which one kind of material may stand; an empty one is not there.
pub(crate) struct Keys {
    pub(crate) path: &'static str,
    pub(crate) paths: &'static str,
    pub(crate) data: &'static str,
    pub(crate) datas: &'static str,
}

impl Material {
    /// Takes it from an object, by the one key that is used.
    pub(crate) fn take(object: &mut Object, keys: &Keys) -> Result<Option<Self>, String> {
        let mut found = Vec::new();
        if let Some(path) = object.string_if_any(keys.path)? {
            found.push(Self::Files(vec![path.into()]));
        }
        if let Some(data) = object.bytes_if_any(keys.data)? {
            found.push(Self::Data(vec![data]));
        }
        if !keys.paths.is_empty()
            && let Some(paths) = object.strings_if_any(keys.paths)?
        {
            found.push(Self::Files(paths.into_iter().map(Into::into).collect()));
        }
        if !keys.datas.is_empty()
            && let Some(datas) = object.byte_lists_if_any(keys.datas)?
        {
            found.push(Self::Data(datas));
        }
        if found.len() > 1 {
            return Err(format!("more than one kind of {:?} is given", keys.path));
        }
        let found = found.pop();
        let empty = match &found {
            Some(Self::Files(paths)) => {
                paths.is_empty() || paths.iter().any(|path| path.as_os_str().is_empty())
            }
            Some(Self::Data(datas)) => datas.is_empty(),
            None => false,
        };
        if empty {
            return Err(format!("{:?} is empty", keys.path));
        }
        Ok(found)
    }

    /// As [`Material::take`], but it has to be there.
    pub(crate) fn need(object: &mut Object, keys: &Keys) -> Result<Self, String> {
        Self::take(object, keys)?.ok_or_else(|| format!("{:?} is missing", keys.path))
    }

    /// Reads it. Files are read each time: they may have changed.
    pub(crate) fn load(&self) -> Result<Vec<Vec<u8>>, String> {
        match self {
            Self::Files(paths) => paths.iter().map(|path| read(path)).collect(),
            Self::Data(datas) => Ok(datas.clone()),
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let failed = |error: std::io::Error| format!("read key {}: {error}", path.display());
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    let length = file.take(KEY_BYTES + 1).read_to_end(&mut bytes);
    if length.map_err(failed)? as u64 > KEY_BYTES {
        return Err(format!(
            "key {} has more than {KEY_BYTES} bytes",
            path.display()
        ));
    }
    Ok(bytes)
}
