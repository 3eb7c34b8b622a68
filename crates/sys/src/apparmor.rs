//! AppArmor's profiles in the kernel: whether it has any, which are loaded, loading one.
//!
//! The kernel takes compiled profiles only, and what compiles them is `apparmor_parser(8)`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::spawn::{self, Output, Program};

/// `Y` where the module is there and switched on.
const ENABLED: &str = "/sys/module/apparmor/parameters/enabled";
/// All profiles of this namespace (needs securityfs).
const PROFILES: &str = "/sys/kernel/security/apparmor/profiles";
/// Where distributions have the parser.
const DIRECTORIES: &str = "/usr/sbin:/sbin:/usr/bin:/bin";
/// Compiling a profile takes a tenth of a second, on an emulated machine some.
const COMPILE: Duration = Duration::from_secs(120);

/// Whether the kernel confines by AppArmor, and tells its profiles. Runtimes want both, too.
#[must_use]
pub fn is_enabled() -> bool {
    let on = fs::read(ENABLED).is_ok_and(|text| text.starts_with(b"Y"));
    on && fs::File::open(PROFILES).is_ok()
}

/// Whether a profile of that name is loaded.
///
/// # Errors
/// `ENOENT`: no AppArmor, or securityfs is not mounted. `EACCES`: not root.
pub fn is_loaded(name: &str) -> io::Result<bool> {
    let text = fs::read_to_string(PROFILES)?;
    Ok(names(&text).any(|loaded| loaded == name))
}

/// Of `name (mode)`, a line each, the names; those may hold blanks and brackets themselves.
fn names(profiles: &str) -> impl Iterator<Item = &str> {
    let lines = profiles.lines();
    lines.filter_map(|line| Some(line.rsplit_once(" (")?.0))
}

/// The parser's program, where it is installed.
#[must_use]
pub fn parser() -> Option<PathBuf> {
    spawn::which("apparmor_parser", DIRECTORIES)
}

/// Compiles `profile` and loads it, in place of what has its name. What the parser says is in the
/// answer.
///
/// # Errors
/// It can't be run, or takes too long.
pub fn load(parser: &Path, profile: &str) -> Result<Output, spawn::Error> {
    let parser = Program::new(parser, COMPILE);
    spawn::run(
        &parser
            .args(["--replace", "--skip-cache"])
            .stdin(profile.as_bytes()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_are_listed_with_their_modes() {
        let text = "crun (unconfined)\n/usr/bin/man (x) (enforce)\nwith blank (complain)\nodd\n";
        let found: Vec<_> = names(text).collect();
        assert_eq!(found, ["crun", "/usr/bin/man (x)", "with blank"]);
    }
}
