//! What the fuzz target does with configuration files.

use std::path::Path;

use crate::Value;
use crate::file::{File, Origin};
use crate::storage_conf::StorageConf;

/// Files of `crio.conf`: every option is of a line that is there, a line in front moves all of them
/// by one, and a value comes back from its own TOML.
pub fn file(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let path = Path::new("crio.conf");
    let Ok(file) = File::parse(path, text) else {
        return;
    };
    let lines = text.split('\n').count();
    let told = tell(&file, 0);
    for (_, _, line) in &told {
        assert!((1..=lines).contains(line), "line {line} of {lines}");
    }
    // A byte order mark is only one at the start.
    if !text.starts_with('\u{feff}') {
        let moved = File::parse(path, &format!("\n{text}")).expect("a line more");
        assert_eq!(tell(&moved, 1), told);
    }
    for setting in &file.settings {
        let (table, key) = (setting.row.table, setting.row.key);
        let table = table.replace("<name>", "n");
        let written = format!("[{table}]\n{key} = {}\n", setting.value.to_toml());
        let again = File::parse(path, &written).expect("our own TOML");
        let values: Vec<_> = again.settings.iter().map(|one| &one.value).collect();
        match (&setting.value, &values[..]) {
            // Written in milliseconds.
            (Value::Duration(one), [Value::Duration(other)]) => {
                let (one, other) = (one.as_secs_f64(), other.as_secs_f64());
                assert!((one - other).abs() <= 0.001 + one * 1e-9, "{written}");
            }
            (one, values) => assert_eq!(values, [one].as_slice(), "{written}"),
        }
    }
}

/// `storage.conf`: every place that is told is a line that is there, and a file that is read a second
/// time changes nothing but lists that add to themselves.
pub fn storage_conf(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let path = Path::new("storage.conf");
    let mut conf = StorageConf::default();
    if conf.take(path, text).is_err() {
        return;
    }
    let lines = text.split('\n').count();
    let options = conf.options();
    let told = options.iter().map(|(_, _, origin)| origin.clone());
    let told = told.chain(conf.unknown.iter().map(|(_, origin)| origin.clone()));
    for origin in told.chain(conf.ignored().map(|(_, origin, _)| origin)) {
        let Origin::File(_, line) = origin else {
            panic!("{origin} is no file");
        };
        assert!((1..=lines).contains(&line), "line {line} of {lines}");
    }
    let pull = conf.pull_options();
    conf.take(path, text).expect("it was read before");
    assert_eq!(conf.pull_options(), pull);
    if !text.contains("append") {
        assert_eq!(conf.options(), options);
    }
}

/// Name, value and line, less `less`, of all that a file says.
fn tell(file: &File, less: usize) -> Vec<(String, String, usize)> {
    let line = |origin: &Origin| match origin {
        Origin::File(_, line) => line - less,
        Origin::Environment(_) | Origin::Flag(_) => 0,
    };
    let settings = file.settings.iter().map(|one| {
        let name = format!("{} {}", one.row.key, one.name);
        (name, format!("{:?}", one.value), line(&one.origin))
    });
    let unknown = file.unknown.iter();
    let unknown = unknown.map(|(key, origin)| (key.clone(), String::new(), line(origin)));
    settings.chain(unknown).collect()
}
