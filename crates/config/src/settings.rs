//! All options with the values in force, and where each came from.

mod reload;
mod verbose;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::command_line::Given;
use crate::file::{File, Origin, Setting};
use crate::row::{Effect, Kind, Row};
use crate::rows::{self, HANDLERS};
use crate::storage_conf::{StorageConf, StorageSources};
use crate::{Error, Value};

/// Where options come from.
#[derive(Debug, Default)]
pub struct Sources {
    /// `crio.conf`; read only if it is there, unless [`Self::file_must_exist`].
    pub file: Option<PathBuf>,
    /// Whether a missing `file` is an error: somebody named it.
    pub file_must_exist: bool,
    /// Directory of drop-ins, read recursively in lexical order.
    pub directory: Option<PathBuf>,
    /// `storage.conf` and its like.
    pub storage: StorageSources,
    /// Flags and environment.
    pub given: Given,
}

pub use self::reload::Change;

/// The options in force.
#[derive(Debug, Clone)]
pub struct Settings {
    values: BTreeMap<(&'static str, &'static str, String), (Value, Option<Origin>)>,
    handlers: BTreeSet<String>,
    unknown: Vec<(String, Origin)>,
    /// Keys of `storage.conf` that do nothing, and why.
    ignored: Vec<(String, Origin, &'static str)>,
    pull_options: BTreeMap<String, String>,
}

impl Settings {
    /// Reads and merges all sources.
    ///
    /// # Errors
    /// A file that can't be read, is not TOML, or holds a value of a wrong type.
    pub fn load(sources: Sources) -> Result<Self, Error> {
        let mut settings = Self::built_in();
        settings.take_storage_conf(StorageConf::load(&sources.storage)?);
        for path in files(&sources)? {
            settings.take_file(File::read(&path)?);
        }
        for setting in sources.given.0 {
            settings.take(setting);
        }
        if settings.handlers.is_empty() {
            settings.handlers.insert("crun".to_owned());
        }
        Ok(settings)
    }

    fn built_in() -> Self {
        let values = rows::all().filter(|row| row.kind != Kind::Table && !row.table.contains('<'));
        let values = values
            .map(|row| ((row.table, row.key, String::new()), (default(row), None)))
            .collect();
        Self {
            values,
            handlers: BTreeSet::new(),
            unknown: Vec::new(),
            ignored: Vec::new(),
            pull_options: BTreeMap::new(),
        }
    }

    fn take_storage_conf(&mut self, conf: StorageConf) {
        for (key, value, origin) in conf.options() {
            let row = rows::find("crio", key).expect("the storage options are rows");
            self.take(Setting {
                row,
                name: String::new(),
                value,
                origin,
            });
        }
        self.ignored = conf.ignored().collect();
        self.pull_options = conf.pull_options();
        self.unknown.extend(conf.unknown);
    }

    fn take_file(&mut self, file: File) {
        self.handlers.extend(file.handlers);
        self.unknown.extend(file.unknown);
        for setting in file.settings {
            self.take(setting);
        }
    }

    fn take(&mut self, setting: Setting) {
        let Setting {
            row,
            name,
            mut value,
            origin,
        } = setting;
        let key = (row.table, row.key, name);
        // An empty root, runroot or driver in a file keeps the earlier value.
        let keeps = row.table == "crio" && matches!(row.key, "root" | "runroot" | "storage_driver");
        if keeps && value == Value::Text(String::new()) {
            return;
        }
        if row.key == "storage_option"
            && let (Value::List(new), Some((Value::List(old), _))) =
                (&mut value, self.values.get(&key))
        {
            let mut joined: Vec<_> = old
                .iter()
                .filter(|option| !new.contains(option))
                .cloned()
                .collect();
            joined.append(new);
            *new = joined;
        }
        self.values.insert(key, (value, Some(origin)));
    }

    /// Whether somebody set an option, in a file, the environment or on the command line.
    #[must_use]
    pub fn is_set(&self, table: &str, key: &str) -> bool {
        let mut values = self.values.iter();
        values.any(|((in_table, of_key, _), (_, origin))| {
            *in_table == table && *of_key == key && origin.is_some()
        })
    }

    /// Options set by somebody that this version does not act on: name, where it was set, and why.
    pub fn without_effect(&self) -> impl Iterator<Item = (String, &Origin, &'static str)> {
        self.values
            .iter()
            .filter_map(|((table, key, name), (_, origin))| {
                let why = match rows::find(table, key)?.effect {
                    Effect::Yes => return None,
                    Effect::NotYet => "not built yet",
                    Effect::No(why) => why,
                };
                Some((full_name(table, key, name), origin.as_ref()?, why))
            })
            .chain(
                self.ignored
                    .iter()
                    .map(|(key, origin, why)| (key.clone(), origin, *why)),
            )
    }

    /// How images are to be pulled, as `[storage.options.pull_options]` of `storage.conf` says it:
    /// `enable_partial_images`, `use_hard_links` and the like, with `"true"` or `"false"`.
    #[must_use]
    pub fn pull_options(&self) -> &BTreeMap<String, String> {
        &self.pull_options
    }

    /// Keys in files that are no option.
    #[must_use]
    pub fn unknown(&self) -> &[(String, Origin)] {
        &self.unknown
    }

    /// All options as a `crio.conf`, those of handlers and workloads as far as they were set.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        let mut table = String::new();
        let in_order = rows::all().flat_map(|row| {
            self.values
                .iter()
                .filter(move |((t, k, _), _)| *t == row.table && *k == row.key)
        });
        let mut all: Vec<_> = in_order
            .map(|((t, k, name), (value, _))| (t.replace("<name>", name), *k, value))
            .collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        for (header, key, value) in all {
            if header != table {
                text.push_str(&format!("\n[{header}]\n"));
                table = header;
            }
            text.push_str(&format!("{key} = {}\n", value.to_toml()));
        }
        text.trim_start().to_owned()
    }

    /// The text of an option.
    ///
    /// # Panics
    /// When there is no such option of that type: a defect of the caller, as for all of these.
    #[must_use]
    pub fn text(&self, table: &str, key: &str) -> &str {
        match self.value(table, key) {
            Value::Text(text) => text,
            other => panic!("{table}.{key} is {other:?}"),
        }
    }

    /// The option's text as a path.
    #[must_use]
    pub fn path(&self, table: &str, key: &str) -> PathBuf {
        PathBuf::from(self.text(table, key))
    }

    /// The truth of an option.
    #[must_use]
    pub fn bool(&self, table: &str, key: &str) -> bool {
        match self.value(table, key) {
            Value::Bool(value) => *value,
            other => panic!("{table}.{key} is {other:?}"),
        }
    }

    /// The number of an option.
    #[must_use]
    pub fn integer(&self, table: &str, key: &str) -> i64 {
        match self.value(table, key) {
            Value::Integer(value) => *value,
            other => panic!("{table}.{key} is {other:?}"),
        }
    }

    /// The strings of an option.
    #[must_use]
    pub fn list(&self, table: &str, key: &str) -> &[String] {
        match self.value(table, key) {
            Value::List(value) => value,
            other => panic!("{table}.{key} is {other:?}"),
        }
    }

    /// The duration of an option.
    #[must_use]
    pub fn duration(&self, table: &str, key: &str) -> Duration {
        match self.value(table, key) {
            Value::Duration(value) => *value,
            other => panic!("{table}.{key} is {other:?}"),
        }
    }

    /// An error about an option's value, that says where it was set.
    #[must_use]
    pub fn wrong(&self, table: &str, key: &str, message: impl Into<String>) -> Error {
        let origin = self
            .values
            .iter()
            .find(|((t, k, _), _)| *t == table && *k == key);
        Error::Value {
            key: full_name(table, key, ""),
            at: origin
                .and_then(|(_, (_, at))| at.as_ref())
                .map_or("built-in default".to_owned(), Origin::to_string),
            message: message.into(),
        }
    }

    fn value(&self, table: &str, key: &str) -> &Value {
        let found = self
            .values
            .iter()
            .find(|((t, k, name), _)| *t == table && *k == key && name.is_empty());
        &found
            .unwrap_or_else(|| panic!("{table}.{key} is no option"))
            .1
            .0
    }

    /// The runtime handlers by name; `crun` alone where no file names one.
    pub fn handlers(&self) -> impl Iterator<Item = Handler<'_>> {
        self.handlers.iter().map(|name| Handler {
            settings: self,
            name,
        })
    }
}

/// The options of one runtime handler.
#[derive(Debug, Clone, Copy)]
pub struct Handler<'a> {
    settings: &'a Settings,
    /// The handler's name.
    pub name: &'a str,
}

impl Handler<'_> {
    /// The option's text.
    #[must_use]
    pub fn text(&self, key: &str) -> String {
        match self.value(key) {
            Value::Text(text) => text,
            other => panic!("{HANDLERS}.{key} is {other:?}"),
        }
    }

    /// The option's truth.
    #[must_use]
    pub fn bool(&self, key: &str) -> bool {
        self.value(key) == Value::Bool(true)
    }

    /// The option's number.
    #[must_use]
    pub fn integer(&self, key: &str) -> i64 {
        match self.value(key) {
            Value::Integer(value) => value,
            other => panic!("{HANDLERS}.{key} is {other:?}"),
        }
    }

    /// The option's strings.
    #[must_use]
    pub fn list(&self, key: &str) -> Vec<String> {
        match self.value(key) {
            Value::List(value) => value,
            other => panic!("{HANDLERS}.{key} is {other:?}"),
        }
    }

    fn value(&self, key: &str) -> Value {
        let row =
            rows::find(HANDLERS, key).unwrap_or_else(|| panic!("{HANDLERS}.{key} is no option"));
        let set = self
            .settings
            .values
            .get(&(row.table, row.key, self.name.to_owned()));
        set.map_or_else(|| default(row), |(value, _)| value.clone())
    }
}

fn full_name(table: &str, key: &str, name: &str) -> String {
    format!("{}.{key}", table.replace("<name>", name))
}

fn default(row: &Row) -> Value {
    let text = format!("v = {}", row.default);
    let table = toml::de::DeTable::parse(&text).expect("a row's default is TOML");
    let value = table.get_ref().get("v").expect("the line above sets it");
    Value::from_toml(row.kind, value.get_ref()).expect("a row's default is of its type")
}

/// The files to read, in order.
fn files(sources: &Sources) -> Result<Vec<PathBuf>, Error> {
    let mut files = Vec::new();
    if let Some(path) = &sources.file {
        let there = path.try_exists().map_err(|source| Error::Read {
            path: path.clone(),
            source,
        })?;
        if there || sources.file_must_exist {
            files.push(path.clone());
        }
    }
    if let Some(directory) = &sources.directory {
        drop_ins(directory, &mut files)?;
    }
    Ok(files)
}

fn drop_ins(directory: &Path, files: &mut Vec<PathBuf>) -> Result<(), Error> {
    let failed = |source| Error::Read {
        path: directory.to_owned(),
        source,
    };
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(missing) if missing.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        // As with CRI-O, one file: `/dev/null` for none.
        Err(file) if file.kind() == std::io::ErrorKind::NotADirectory => {
            files.push(directory.to_owned());
            return Ok(());
        }
        Err(source) => return Err(failed(source)),
    };
    let mut paths = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(failed)?;
    paths.sort();
    for path in paths {
        if path.is_dir() {
            drop_ins(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(files: &[(&str, &str)], flags: &[&str]) -> Result<Settings, Error> {
        let directory = tempfile::tempdir().unwrap();
        let drop_ins = directory.path().join("crio.conf.d");
        fs::create_dir(&drop_ins).unwrap();
        for (name, text) in files {
            fs::write(directory.path().join(name), text).unwrap();
        }
        let matches = clap::Command::new("crioxide")
            .args(crate::flags())
            .get_matches_from(std::iter::once("crioxide").chain(flags.iter().copied()));
        let given = crate::given(&matches, |name| {
            (name == "CONTAINER_LOG_LEVEL").then(|| "warn".into())
        })?;
        Settings::load(Sources {
            file: Some(directory.path().join("crio.conf")),
            directory: Some(drop_ins),
            storage: StorageSources {
                directories: vec![directory.path().to_owned()],
                ..StorageSources::default()
            },
            given,
            ..Sources::default()
        })
    }

    #[test]
    fn a_later_reading_changes_what_may_be_reloaded() {
        let old = "[crio]\nroot = \"/one\"\n[crio.runtime]\nseccomp_profile = \"/a\"\nlog_level = \"info\"\n\
                   [crio.runtime.runtimes.a]\nruntime_path = \"/a\"\n[crio.runtime.runtimes.b]\nruntime_path = \"/b\"\n";
        let new = "[crio]\nroot = \"/two\"\n[crio.runtime]\nseccomp_profile = \"/b\"\nlog_level = \"debug\"\n\
                   [crio.image]\npause_image = \"x\"\n\
                   [crio.runtime.runtimes.a]\nruntime_path = \"/aa\"\n[crio.runtime.runtimes.c]\nruntime_path = \"/c\"\n";
        let old = load(&[("crio.conf", old)], &["--cdi-spec-dirs=/flag"]).unwrap();
        let new = load(&[("crio.conf", new)], &["--cdi-spec-dirs=/flag"]).unwrap();
        let (merged, changes) = old.reloaded(new);
        assert_eq!(merged.text("crio", "root"), "/one");
        assert_eq!(merged.text("crio.runtime", "seccomp_profile"), "/b");
        // The environment says so, before and after.
        assert_eq!(merged.text("crio.runtime", "log_level"), "warn");
        assert_eq!(merged.list("crio.runtime", "cdi_spec_dirs"), ["/flag"]);
        let handlers: Vec<_> = merged
            .handlers()
            .map(|handler| (handler.name, handler.text("runtime_path")))
            .collect();
        assert_eq!(handlers, [("a", "/aa".to_owned()), ("c", "/c".to_owned())]);
        let change = |option: &str, value: Option<&str>, reloads| Change {
            option: option.into(),
            value: value.map(str::to_owned),
            reloads,
        };
        let mut sorted = changes;
        sorted.sort_by(|one, other| one.option.cmp(&other.option));
        assert_eq!(
            sorted,
            [
                change(
                    "crio.runtime.runtimes.a.runtime_path",
                    Some("\"/aa\""),
                    true
                ),
                change("crio.runtime.runtimes.b.runtime_path", None, true),
                change("crio.runtime.runtimes.c.runtime_path", Some("\"/c\""), true),
                change("pause_image", Some("\"x\""), true),
                change("root", Some("\"/two\""), false),
                change("seccomp_profile", Some("\"/b\""), true),
            ]
        );
    }

    #[test]
    fn there_are_158_options_and_every_default_is_of_its_type() {
        assert_eq!(rows::all().count(), 158);
        for row in rows::all().filter(|row| row.kind != Kind::Table) {
            default(row);
        }
        let flags: Vec<_> = rows::all()
            .map(|row| row.flag)
            .filter(|flag| !flag.is_empty())
            .collect();
        assert_eq!(
            flags.iter().collect::<BTreeSet<_>>().len(),
            flags.len(),
            "a flag stands for one option"
        );
    }

    #[test]
    fn later_sources_win() {
        let files = [
            (
                "storage.conf",
                "[storage]\ngraphroot = \"/s\"\nrunroot = \"/sr\"\n",
            ),
            (
                "crio.conf",
                "[crio]\nroot = \"\"\nrunroot = \"/c\"\n[crio.runtime]\nlog_level = \"debug\"\n",
            ),
            (
                "crio.conf.d/10.conf",
                "[crio.runtime]\nctr_stop_timeout = 40\npids_limit = 5\n",
            ),
            (
                "crio.conf.d/20.conf",
                "[crio.runtime]\nctr_stop_timeout = 50\n",
            ),
        ];
        let settings = load(&files, &["--pids-limit", "6", "--read-only"]).unwrap();
        assert_eq!(settings.text("crio", "root"), "/s");
        assert_eq!(settings.text("crio", "runroot"), "/c");
        assert_eq!(settings.text("crio.runtime", "log_level"), "warn");
        assert_eq!(settings.integer("crio.runtime", "ctr_stop_timeout"), 50);
        assert_eq!(settings.integer("crio.runtime", "pids_limit"), 6);
        assert!(settings.bool("crio.runtime", "read_only"));
    }

    #[test]
    fn handlers_merge_field_by_field() {
        let files = [
            (
                "crio.conf",
                "[crio.runtime.runtimes.runc]\nruntime_path = \"/a\"\nruntime_root = \"/r\"\n",
            ),
            (
                "crio.conf.d/1",
                "[crio.runtime.runtimes.runc]\nruntime_path = \"/b\"\n[crio.runtime.runtimes.x]\n",
            ),
        ];
        let settings = load(&files, &[]).unwrap();
        let handlers: Vec<_> = settings.handlers().collect();
        assert_eq!(
            handlers
                .iter()
                .map(|handler| handler.name)
                .collect::<Vec<_>>(),
            ["runc", "x"]
        );
        assert_eq!(
            (
                handlers[0].text("runtime_path"),
                handlers[0].text("runtime_root")
            ),
            ("/b".into(), "/r".into())
        );
        assert_eq!(handlers[1].integer("container_create_timeout"), 240);
    }

    #[test]
    fn storage_options_join_and_the_last_of_two_equal_ones_stays() {
        let files = [
            (
                "storage.conf",
                "[storage.options.overlay]\nmountopt = \"nodev\"\n",
            ),
            (
                "crio.conf",
                "[crio]\nstorage_option = [\"overlay.size=1G\", \"overlay.mountopt=nodev\"]\n",
            ),
        ];
        let settings = load(&files, &[]).unwrap();
        assert_eq!(
            settings.list("crio", "storage_option"),
            ["overlay.size=1G", "overlay.mountopt=nodev"]
        );
    }

    #[test]
    fn an_option_without_effect_is_named_with_its_place() {
        let settings = load(
            &[(
                "crio.conf",
                "[crio.runtime]\nconmon = \"/x\"\nrdt_config_file = \"/r\"\n",
            )],
            &[],
        )
        .unwrap();
        let named: Vec<_> = settings
            .without_effect()
            .map(|(key, _, why)| format!("{key}: {why}"))
            .collect();
        assert_eq!(
            named,
            [
                "crio.runtime.conmon: the monitor is always crioxide's own",
                "crio.runtime.rdt_config_file: not built yet"
            ]
        );
    }

    #[test]
    fn what_is_shown_can_be_read_again() {
        let files = [(
            "crio.conf",
            "[crio.runtime]\nlog_filter = \"a\\\"b\"\n[crio.runtime.runtimes.runc]\nruntime_root = \"/r\"\n",
        )];
        let shown = load(&files, &[]).unwrap().to_toml();
        let again = load(&[("crio.conf", &shown)], &[]).unwrap();
        assert_eq!(again.to_toml(), shown);
        assert!(again.unknown().is_empty());
    }

    #[test]
    fn a_flag_of_a_wrong_type_is_named() {
        let error = load(&[], &["--pids-limit", "many"])
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "unable to decode configuration: flag --pids-limit: crio.runtime.pids_limit wants an integer"
        );
    }

    #[test]
    fn a_file_in_place_of_the_drop_ins_is_one() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "[crio.runtime]\nlog_level = \"warn\"\n").unwrap();
        for (place, level) in [(file.path(), "warn"), (Path::new("/dev/null"), "info")] {
            let settings = Settings::load(Sources {
                directory: Some(place.to_owned()),
                ..Sources::default()
            });
            assert_eq!(settings.unwrap().text("crio.runtime", "log_level"), level);
        }
    }
}
