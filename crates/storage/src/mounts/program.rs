//! Overlays that a program mounts in place of the kernel (`mount_program`: fuse-overlayfs). It stays for as
//! long as its mount and ends with it. If it dies the mount stays and answers nothing: it is taken
//! away, and made again when the layer is mounted next.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use rustix::io::Errno;
use sys::mount::{self, Overlay};
use sys::pool::Pool;
use sys::spawn::Program;

use crate::patience::patiently;

/// The threads that wait for answers.
static POOL: LazyLock<Pool> = LazyLock::new(|| Pool::new("mount-programs", 4));
/// How long it may take to mount, or to answer.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of what it says that are kept.
const SAYS_BYTES: usize = 4096;
/// Tells peers of the same store that layers are the program's, in the driver's directory.
const FLAG: &str = ".has-mount-program";

/// Has `program` mount an overlay; `masked`: owners and permissions are in an attribute. One that fails, or
/// takes too long, leaves no mount.
pub(super) fn mount(
    program: &Path,
    overlay: &Overlay,
    masked: bool,
    target: &Path,
) -> io::Result<()> {
    let run = Program {
        output_limit: SAYS_BYTES,
        cwd: Some(overlay.base.clone()),
        env: vec![(
            "PATH".into(),
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into(),
        )],
        ..Program::new(program, TIMEOUT)
    };
    let run = run.arg("-o").arg(options(overlay, masked)?).arg(target);
    let mounted = run_program(&run, program, target);
    if mounted.is_err() {
        // It may have mounted before it failed.
        mount::unmount_all(target)?;
    }
    mounted
}

fn run_program(run: &Program, program: &Path, target: &Path) -> io::Result<()> {
    let ended = sys::spawn::run(run).map_err(io::Error::other)?;
    let said = || String::from_utf8_lossy(&ended.stderr).trim().to_owned();
    if !ended.status.success() {
        return Err(io::Error::other(format!(
            "{} ended with {}: {}",
            program.display(),
            ended.status,
            said()
        )));
    }
    if !mount::is_mount_point(target)? {
        let said = said();
        return Err(io::Error::other(format!(
            "{} has mounted nothing: {said}",
            program.display()
        )));
    }
    Ok(())
}

/// Whether what is mounted there has lost its program.
///
/// # Errors
/// `ETIMEDOUT`: it has one, which does not answer.
pub(super) fn is_dead(target: &Path) -> io::Result<bool> {
    let target = target.to_owned();
    // Not by stat(2), which the kernel answers from what it remembers.
    let ask = move || Ok(rustix::fs::statfs(target).is_err_and(|error| error == Errno::NOTCONN));
    patiently(&POOL, TIMEOUT, ask)
}

/// Leaves word in the driver's directory that a program mounts its layers.
pub(crate) fn tell_peers(home: &Path) -> io::Result<()> {
    sys::durable::replace_volatile(&home.join(FLAG), b"true", 0o600)
}

fn options(overlay: &Overlay, masked: bool) -> io::Result<OsString> {
    let mut options = b"lowerdir=".to_vec();
    for (number, lower) in overlay.lowers.iter().enumerate() {
        if number > 0 {
            options.push(b':');
        }
        options.extend(path(overlay, lower)?);
    }
    if let Some((upper, work)) = &overlay.upper {
        for (key, dir) in [("upperdir", upper), ("workdir", work)] {
            options.extend(format!(",{key}=").as_bytes());
            options.extend(path(overlay, dir)?);
        }
    }
    for (key, value) in &overlay.options {
        options.push(b',');
        options.extend(key.as_bytes());
        if let Some(value) = value {
            options.push(b'=');
            // A label's list of categories has commas.
            options.extend(value.replace(',', "\\,").as_bytes());
        }
    }
    let flags = &overlay.flags;
    for (set, word) in [
        (flags.read_only, "ro"),
        (flags.no_dev, "nodev"),
        (flags.no_suid, "nosuid"),
        (flags.no_exec, "noexec"),
        (masked, "xattr_permissions=2"),
    ] {
        if set {
            options.push(b',');
            options.extend(word.as_bytes());
        }
    }
    Ok(OsString::from_vec(options))
}

fn path(overlay: &Overlay, path: &PathBuf) -> io::Result<Vec<u8>> {
    let path = overlay.base.join(path).into_os_string();
    let special = |byte: &u8| matches!(byte, b',' | b':' | b'\\');
    if path.as_bytes().iter().any(special) {
        let text = "a path with a comma, colon or backslash can't be told to a mount program";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    Ok(path.into_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overlay_is_told_in_one_word() {
        let mut overlay = Overlay {
            base: "/home".into(),
            lowers: vec!["l/A".into(), "/other/l/B".into()],
            upper: Some(("c/diff".into(), "c/work".into())),
            options: vec![
                ("volatile".into(), None),
                ("context".into(), Some("a:b:c:s0:c1,c2".into())),
            ],
            flags: mount::Flags {
                no_dev: true,
                ..mount::Flags::default()
            },
        };
        let told = options(&overlay, true).unwrap();
        let expected = "lowerdir=/home/l/A:/other/l/B,upperdir=/home/c/diff,workdir=/home/c/work,\
            volatile,context=a:b:c:s0:c1\\,c2,nodev,xattr_permissions=2";
        assert_eq!(told, expected);
        overlay.lowers.push("/a:b".into());
        assert!(options(&overlay, false).is_err());
    }
}
