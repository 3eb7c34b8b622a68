//! Entries of a container's user and group in account files that don't know them, as CRI-O makes
//! them: programs look their own name up, and some end where there is none.
//!
//! A copy of the image's file with a line more is mounted over it. Nothing is done where the request
//! mounts something there, where there is no file, or where the user may write it: such an image
//! means to write its entry itself.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use spec::{oci, user};

use crate::Error;
use crate::bundle::Ingredients;
use crate::rootfs::{Read, Rootfs};

/// What is to be mounted: destination, source.
pub(crate) fn complete(
    rootfs: &Rootfs,
    from: &Ingredients,
    user: &oci::User,
    env: &[String],
    cwd: &str,
) -> Result<Vec<(&'static str, PathBuf)>, Error> {
    let asked = |path: &str| {
        let mut mounts = from.request.mounts.iter();
        mounts.any(|mount| {
            let place = mount.container_path.trim_end_matches('/');
            place == path || place == "/etc"
        })
    };
    let (uid, gid) = rootfs.outside(user.uid, user.gid)?;
    let mut mounts = Vec::new();
    if !asked("/etc/passwd")
        && let Some(file) = incomplete(rootfs, "etc/passwd", user.uid)?
        && !file.bytes.is_empty()
        && !may_write(&file, uid, file.owner.0)
    {
        let line = passwd_line(&name(from), user, home(env, cwd)?);
        let path = put(&from.bundle, "passwd", &file, &line)?;
        mounts.push(("/etc/passwd", path));
    }
    if !asked("/etc/group")
        && let Some(file) = incomplete(rootfs, "etc/group", user.gid)?
        && !may_write(&file, gid, file.owner.1)
    {
        let line = format!("{gid}:x:{gid}:\n", gid = user.gid);
        let path = put(&from.bundle, "group", &file, &line)?;
        mounts.push(("/etc/group", path));
    }
    Ok(mounts)
}

/// The file, where it is there, all of it was read and nobody in it has the number.
fn incomplete(rootfs: &Rootfs, name: &str, number: u32) -> Result<Option<Read>, Error> {
    let file = rootfs.read(name)?;
    Ok(file.filter(|file| file.bytes.len() < user::MAX_FILE_BYTES && !knows(&file.bytes, number)))
}

/// Whether a line has the number in its third field (passwd(5), group(5)).
fn knows(bytes: &[u8], number: u32) -> bool {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    lines.any(|line| {
        let field = line.split(|byte| *byte == b':').nth(2);
        let text = field.and_then(|field| std::str::from_utf8(field).ok());
        text.and_then(|text| text.trim().parse().ok()) == Some(number)
    })
}

fn may_write(file: &Read, id: u32, owner: u32) -> bool {
    file.mode & 0o022 != 0 || (id == owner && file.mode & 0o200 != 0)
}

/// What the user was called by, without a group; `default` where nobody was called.
fn name(from: &Ingredients) -> String {
    let request = &from.request.user;
    let asked = match (request.uid, request.name.as_str()) {
        (Some(uid), _) => uid.to_string(),
        (None, "") => from.image.user.clone(),
        (None, name) => name.to_owned(),
    };
    let name = asked.split(':').next().unwrap_or_default();
    if name.is_empty() {
        "default".to_owned()
    } else {
        name.to_owned()
    }
}

fn home<'a>(env: &'a [String], cwd: &'a str) -> Result<&'a str, Error> {
    let home = env.iter().find_map(|pair| pair.strip_prefix("HOME="));
    let home = home.filter(|home| !home.is_empty()).unwrap_or(cwd);
    if home.contains(['\n', '\r']) {
        let text = "invalid HOME environment; newline not allowed";
        return Err(Error::Invalid(text.to_owned()));
    }
    Ok(home)
}

fn passwd_line(name: &str, user: &oci::User, home: &str) -> String {
    let (uid, gid) = (user.uid, user.gid);
    format!("{name}:x:{uid}:{gid}:{name} user:{home}:/sbin/nologin\n")
}

/// A file in the bundle, with a line more than the image's and with its owner and permissions.
fn put(bundle: &Path, name: &str, image: &Read, line: &str) -> Result<PathBuf, Error> {
    let path = bundle.join(name);
    let write = || {
        let mut file = std::fs::File::options()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)?;
        file.write_all(&image.bytes)?;
        if !image.bytes.is_empty() && !image.bytes.ends_with(b"\n") {
            file.write_all(b"\n")?;
        }
        file.write_all(line.as_bytes())?;
        let (uid, gid) = image.owner;
        std::os::unix::fs::fchown(&file, Some(uid), Some(gid))?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(image.mode & 0o777);
        file.set_permissions(mode)
    };
    write().map_err(Error::io("write", &path))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_looked_for_in_its_field() {
        let text = b"root:x:0:0:root:/root:/bin/sh\nx:1234:77:88::/:\n\nbroken\n";
        for (number, known) in [(0, true), (77, true), (1234, false), (88, false)] {
            assert_eq!(knows(text, number), known, "{number}");
        }
    }
}
