//! OCI hooks: programs that the node's hook files give to containers.
//!
//! The files are read at the start, as CRI-O does: a hook that guards something must not be missing
//! because its file was broken a moment ago.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;

use spec::hooks::{HookFile, Subject};
use spec::oci;

use crate::node_files::{self, FILES};
use crate::state::pod::Pod;
use crate::{ContainerRequest, Error};

/// Hooks in the order in which containers get them.
#[derive(Debug, Clone, Default)]
pub struct OciHooks(Vec<(String, HookFile)>);

impl OciHooks {
    /// Reads the files `*.json` of the directories. A file of a later one takes the place of one of
    /// the same name. A directory that is not there is empty. Blocks.
    ///
    /// # Errors
    /// A directory or a file can't be read, or a file is not in the schema.
    pub fn read(dirs: &[PathBuf]) -> Result<Self, Error> {
        let mut by_name = BTreeMap::new();
        for dir in dirs {
            let entries = match fs::read_dir(dir) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                    tracing::warn!(path = %dir.display(), "hooks directory is none: skipped");
                    continue;
                }
                entries => entries.map_err(Error::io("read hooks directory", dir))?,
            };
            for entry in entries.take(FILES) {
                let entry = entry.map_err(Error::io("read hooks directory", dir))?;
                let name = entry.file_name().to_string_lossy().into_owned();
                if !name.ends_with(".json") {
                    continue;
                }
                let path = entry.path();
                let bytes = node_files::read(&path).map_err(Error::io("read hook", &path))?;
                let wrong = |why| Error::Invalid(format!("parsing hook {}: {why}", path.display()));
                let file = HookFile::parse(&bytes).map_err(wrong)?;
                if !fs::exists(file.program()).unwrap_or(true) {
                    let (hook, program) = (name, file.program());
                    tracing::warn!(hook, program, "hook left out: its program is not there");
                    continue;
                }
                by_name.insert(name, file);
            }
        }
        let mut hooks: Vec<_> = by_name.into_iter().collect();
        hooks.sort_by_key(|(name, _)| name.to_lowercase());
        Ok(Self(hooks))
    }

    /// Gives a container the hooks that are for it.
    pub(crate) fn inject(&self, pod: &Pod, request: &ContainerRequest, spec: &mut oci::Spec) {
        if self.0.is_empty() {
            return;
        }
        // The pod's word goes before the container's.
        let mut annotations = request.annotations.clone();
        annotations.extend(pod.request.annotations.clone());
        let arguments = spec.process.as_ref().map(|process| &process.args);
        let command = arguments.and_then(|arguments| arguments.first()).cloned();
        let command = command.unwrap_or_default();
        let subject = Subject {
            annotations: &annotations,
            command: &command,
            has_bind_mounts: !request.mounts.is_empty(),
        };
        for (hook, file) in &self.0 {
            if file.apply(subject, spec) {
                tracing::debug!(container = request.name, hook, "hook added");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(program: &str) -> String {
        format!(
            r#"{{"version": "1.0.0", "hook": {{"path": "{program}"}}, "when": {{"always": true}}, "stages": ["poststop"]}}"#
        )
    }

    fn read(files: &[&[(&str, &str)]]) -> Result<Vec<(String, String)>, Error> {
        let dirs: Vec<_> = files
            .iter()
            .map(|files| {
                let dir = tempfile::tempdir().unwrap();
                for (name, text) in *files {
                    fs::write(dir.path().join(name), text).unwrap();
                }
                dir
            })
            .collect();
        let mut paths: Vec<_> = dirs.iter().map(|dir| dir.path().to_owned()).collect();
        paths.push("/no/such/directory".into());
        let hooks = OciHooks::read(&paths)?.0;
        let hooks = hooks.into_iter();
        Ok(hooks
            .map(|(name, file)| (name, file.program().to_owned()))
            .collect())
    }

    #[test]
    fn hooks_come_by_their_names_whatever_their_case_and_the_later_directory_wins() {
        let (one, two) = (hook("/bin/true"), hook("/bin/false"));
        let low = [
            ("10-B.json", &*one),
            ("10-a.json", &one),
            ("9.json", &one),
            ("x.txt", "{"),
        ];
        let high = [("10-a.json", &*two)];
        let pair = |name: &str, program: &str| (name.to_owned(), program.to_owned());
        assert_eq!(
            read(&[&low, &high]).unwrap(),
            [
                pair("10-a.json", "/bin/false"),
                pair("10-B.json", "/bin/true"),
                pair("9.json", "/bin/true"),
            ]
        );
    }

    #[test]
    fn a_broken_file_is_an_error_and_a_missing_program_is_not() {
        let error = read(&[&[("a.json", "{")]]).unwrap_err();
        assert!(error.to_string().contains("a.json"), "{error}");
        assert_eq!(read(&[&[("a.json", &hook("/no/such"))]]).unwrap(), []);
    }
}
