//! CDI devices: what the node's spec files say, put into a container's spec.
//!
//! The files are read for each container that asks for devices, and for no other: what is there then
//! counts, nothing has to be watched, and a broken file matters to nobody else.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use spec::cdi::{self, Format, HostDevice, SpecFile};
use spec::oci;

use crate::node_files::{self, FILES};
use crate::{ContainerRequest, Error};

/// Puts the devices that a container asks for into its spec; a device is asked for once. Blocks.
///
/// # Errors
/// A name is none, no file has the device, or two of the same directory do, or it is not what the
/// host has.
pub(crate) fn inject(
    dirs: &[PathBuf],
    request: &ContainerRequest,
    spec: &mut oci::Spec,
) -> Result<(), Error> {
    let wanted = wanted(request)?;
    if wanted.is_empty() {
        return Ok(());
    }
    let devices = Devices::read(dirs);
    let (found, missing): (Vec<_>, Vec<_>) = wanted
        .iter()
        .map(|name| (name, devices.by_name.get(name.as_str())))
        .partition(|(_, source)| source.is_some_and(Source::is_one));
    if !missing.is_empty() {
        let names: Vec<_> = missing.iter().map(|(name, _)| name.as_str()).collect();
        return Err(Error::Cdi(format!(
            "unresolvable CDI devices {}{}",
            names.join(", "),
            devices.hint(&names)
        )));
    }
    let mut done: Vec<&Arc<SpecFile>> = Vec::new();
    for (name, source) in found {
        let Some(file) = source.and_then(|source| source.files.first()) else {
            continue;
        };
        let failed = |why| Error::Cdi(format!("failed to inject devices: {why}"));
        let file = &file.1;
        // What the file has for all of its devices comes once.
        if !done.iter().any(|one| Arc::ptr_eq(one, file)) {
            file.edits().apply(spec, look).map_err(failed)?;
            done.push(file);
        }
        if let Some(edits) = file.device(name) {
            edits.apply(spec, look).map_err(failed)?;
        }
    }
    Ok(())
}

/// The request's devices, then those that its annotations add.
fn wanted(request: &ContainerRequest) -> Result<Vec<String>, Error> {
    let annotated = cdi::from_annotations(&request.annotations).map_err(|wrong| {
        Error::Invalid(format!("failed to parse CDI device annotations: {wrong}"))
    })?;
    let (mut wanted, mut seen) = (Vec::new(), BTreeSet::new());
    for name in request.cdi_devices.iter().chain(&annotated) {
        if seen.insert(name) {
            wanted.push(name.clone());
        } else {
            let container = request.name.as_str();
            tracing::warn!(container, device = name, "skipping duplicate CDI device");
        }
    }
    Ok(wanted)
}

/// The node's devices.
#[derive(Debug, Default)]
struct Devices {
    by_name: BTreeMap<String, Source>,
    /// Files that are no use, and why.
    broken: Vec<String>,
}

/// Where a device is told of.
#[derive(Debug)]
struct Source {
    /// Which of the directories: the later goes before.
    priority: usize,
    files: Vec<(PathBuf, Arc<SpecFile>)>,
}

impl Source {
    /// Two files of the same directory contradict each other, whatever they say.
    fn is_one(&self) -> bool {
        self.files.len() == 1
    }
}

impl Devices {
    fn read(dirs: &[PathBuf]) -> Self {
        let mut all = Self::default();
        for (priority, dir) in dirs.iter().enumerate() {
            for (path, format) in all.files(dir) {
                let parsed = node_files::read(&path)
                    .map_err(|error| error.to_string())
                    .and_then(|bytes| SpecFile::parse(&bytes, format));
                match parsed {
                    Ok(file) => all.add(priority, path, &Arc::new(file)),
                    Err(why) => all.is_broken(&path, &why),
                }
            }
        }
        all
    }

    /// Files of a directory, by name. One that is not there is empty.
    fn files(&mut self, dir: &Path) -> Vec<(PathBuf, Format)> {
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    self.is_broken(dir, &error.to_string());
                }
                return Vec::new();
            }
        };
        let mut files: Vec<_> = entries
            .take(FILES)
            .filter_map(|entry| {
                let path = entry.ok()?.path();
                match path.extension()?.to_str()? {
                    "json" => Some((path, Format::Json)),
                    "yaml" => Some((path, Format::Yaml)),
                    _ => None,
                }
            })
            .filter(|(path, _)| !path.is_dir())
            .collect();
        files.sort_by(|(one, _), (other, _)| one.cmp(other));
        files
    }

    fn add(&mut self, priority: usize, path: PathBuf, file: &Arc<SpecFile>) {
        for name in file.devices() {
            let this = (path.clone(), Arc::clone(file));
            match self.by_name.get_mut(&name) {
                Some(there) if there.priority == priority => {
                    let (one, other) = (there.files.first().map(|file| &file.0), &path);
                    tracing::warn!(device = name, ?one, ?other, "conflicting CDI devices");
                    there.files.push(this);
                }
                // Directories come in the order of their priority.
                _ => {
                    let files = vec![this];
                    self.by_name.insert(name, Source { priority, files });
                }
            }
        }
    }

    fn is_broken(&mut self, path: &Path, why: &str) {
        tracing::warn!(path = %path.display(), why, "CDI spec file is not used");
        self.broken.push(path.display().to_string());
    }

    /// What may be behind it that they are not there.
    fn hint(&self, names: &[&str]) -> String {
        let conflicts = names.iter().filter_map(|name| self.by_name.get(*name));
        let conflicts: Vec<_> = conflicts
            .flat_map(|source| &source.files)
            .map(|(path, _)| path.display().to_string())
            .collect();
        if !conflicts.is_empty() {
            format!(" (in conflict: {})", conflicts.join(", "))
        } else if self.broken.is_empty() {
            String::new()
        } else {
            format!(" (not used: {})", self.broken.join(", "))
        }
    }
}

/// A device node of the host.
fn look(path: &Path) -> Result<HostDevice, String> {
    let metadata = fs::metadata(path).map_err(|error| error.to_string())?;
    let kind = metadata.file_type();
    let kind = if kind.is_block_device() {
        "b"
    } else if kind.is_char_device() {
        "c"
    } else if kind.is_fifo() {
        "p"
    } else {
        return Err("not a device node".to_owned());
    };
    Ok(HostDevice {
        kind,
        major: i64::from(rustix::fs::major(metadata.rdev())),
        minor: i64::from(rustix::fs::minor(metadata.rdev())),
        mode: metadata.mode() & 0o777,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    fn file(device: &str, value: &str) -> String {
        format!(
            r#"{{"cdiVersion": "0.5.0", "kind": "v.com/c", "containerEdits": {{"env": ["SHARED={value}"]}},
                "devices": [{{"name": "{device}", "containerEdits": {{"env": ["D_{device}={value}"]}}}}]}}"#
        )
    }

    #[test]
    fn the_later_directory_goes_before_and_two_of_one_are_none() {
        let low = dir(&[("a.json", &file("1", "low")), ("b.json", &file("2", "low"))]);
        let high = dir(&[
            ("a.json", &file("1", "high")),
            ("c.yaml", &file("3", "one")),
            ("d.json", &file("3", "other")),
            ("broken.json", "{"),
            ("note.txt", "{"),
        ]);
        fs::create_dir(high.path().join("sub.json")).unwrap();
        let gone = PathBuf::from("/no/such/directory");
        let dirs = [low.path().to_owned(), gone, high.path().to_owned()];
        let devices = Devices::read(&dirs);
        let of = |name: &str| devices.by_name.get(name).unwrap();
        assert_eq!(of("v.com/c=1").files.len(), 1);
        assert!(of("v.com/c=1").files[0].0.starts_with(high.path()));
        assert!(of("v.com/c=2").files[0].0.starts_with(low.path()));
        assert!(!of("v.com/c=3").is_one());
        assert!(devices.hint(&["v.com/c=3"]).contains("d.json"));
        assert_eq!(devices.broken.len(), 1);
        assert!(devices.hint(&["v.com/c=9"]).contains("broken.json"));
    }

    #[test]
    fn a_file_that_says_the_same_again_is_higher_only_by_its_directory() {
        let first = dir(&[("a.json", &file("1", "a")), ("b.json", &file("1", "b"))]);
        let second = dir(&[("a.json", &file("1", "c"))]);
        let dirs = [first.path().to_owned(), second.path().to_owned()];
        // A conflict below is none of the business of who is above.
        assert!(Devices::read(&dirs).by_name["v.com/c=1"].is_one());
        let dirs = [second.path().to_owned(), first.path().to_owned()];
        assert!(!Devices::read(&dirs).by_name["v.com/c=1"].is_one());
    }

    #[test]
    fn devices_of_the_host_are_told_by_their_numbers() {
        let null = look(Path::new("/dev/null")).unwrap();
        assert_eq!((null.kind, null.major, null.minor), ("c", 1, 3));
        assert!(look(Path::new("/etc/passwd")).is_err());
        assert!(look(Path::new("/dev/no-such")).is_err());
    }
}
