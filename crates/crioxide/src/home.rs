//! Where a user's own configuration files are.

use std::path::PathBuf;

/// The user's home. A service has no `HOME`: then it is the one of `/etc/passwd`.
pub(crate) fn home() -> Option<PathBuf> {
    let set = std::env::var_os("HOME").filter(|home| !home.is_empty());
    set.map(PathBuf::from).or_else(|| {
        let users = std::fs::read_to_string("/etc/passwd").ok()?;
        home_of(&users, rustix::process::geteuid().as_raw())
    })
}

/// The home of a user in the content of a file as passwd(5) describes it.
fn home_of(users: &str, uid: u32) -> Option<PathBuf> {
    let mut users = users
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>());
    users.find_map(|fields| match fields[..] {
        [_, _, number, _, _, home, ..] if number.parse() == Ok(uid) => {
            Some(PathBuf::from(home)).filter(|home| home.is_absolute())
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_is_found_by_the_users_number() {
        let users = "# comment\nroot:x:0:0:root:/root:/bin/sh\nodd:x:7:7::relative:/bin/sh\n\
            short:x:8\njoe:x:1000:1000:Joe:/home/joe:/bin/sh\n";
        for (uid, home) in [
            (0, Some("/root")),
            (1000, Some("/home/joe")),
            (7, None),
            (8, None),
            (9, None),
        ] {
            assert_eq!(home_of(users, uid), home.map(PathBuf::from), "{uid}");
        }
    }
}
