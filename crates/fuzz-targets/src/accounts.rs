//! Account files of images.

use spec::user::{Accounts, GroupsPolicy, Request, resolve};

/// The largest id.
const MAX_ID: u32 = i32::MAX as u32;

/// passwd and group, the user wanted before them, each after a NUL: ids are in range, the primary
/// group comes first, none comes twice, and a reader that takes the files apart first agrees.
pub(crate) fn accounts(bytes: &[u8]) {
    let mut parts = bytes.splitn(3, |byte| *byte == 0);
    let user = String::from_utf8_lossy(parts.next().unwrap_or_default());
    let accounts = Accounts {
        passwd: parts.next().unwrap_or_default(),
        group: parts.next().unwrap_or_default(),
    };
    let found = resolve(&Request::default(), &user, accounts);
    let strict = Request {
        policy: GroupsPolicy::Strict,
        ..Request::default()
    };
    let bare = resolve(&strict, &user, accounts);
    assert_eq!(found.is_ok(), bare.is_ok());
    let (Ok(found), Ok(bare)) = (found, bare) else {
        return;
    };
    assert!(found.uid <= MAX_ID && found.additional_gids.iter().all(|gid| *gid <= MAX_ID));
    assert_eq!(found.additional_gids.first(), Some(&found.gid));
    assert_eq!((bare.uid, bare.gid), (found.uid, found.gid));
    assert_eq!(bare.additional_gids, [found.gid]);

    let (user, group) = user.split_once(':').unwrap_or((&user, ""));
    let user = if user.is_empty() { "0" } else { user };
    let passwd = table(accounts.passwd);
    let entry = passwd.iter().find(|entry| {
        let (Some(uid), Some(_)) = (id(entry, 2), id(entry, 3)) else {
            return false;
        };
        match user.parse::<u32>() {
            Ok(wanted) => wanted == uid,
            Err(_) => entry[0] == user.as_bytes(),
        }
    });
    let uid = match entry {
        Some(entry) => id(entry, 2),
        None => user.parse().ok(),
    };
    assert_eq!(Some(found.uid), uid);
    let groups = table(accounts.group);
    let mut gids = vec![found.gid];
    if let Some(entry) = entry {
        if group.is_empty() {
            assert_eq!(Some(found.gid), id(entry, 3));
        }
        for line in &groups {
            let members = line.get(3).map(|names| names.split(|byte| *byte == b','));
            let is_member = members.is_some_and(|mut names| names.any(|name| name == entry[0]));
            if let (Some(gid), true) = (id(line, 2), is_member) {
                gids.push(gid);
            }
        }
    }
    let all = gids.clone();
    let mut at = 0;
    gids.retain(|gid| {
        at += 1;
        !all[..at - 1].contains(gid)
    });
    assert_eq!(found.additional_gids, gids);
}

/// Lines and their fields.
fn table(text: &[u8]) -> Vec<Vec<&[u8]>> {
    let lines = text.split(|byte| *byte == b'\n');
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with(b"#"));
    lines
        .map(|line| line.split(|byte| *byte == b':').collect())
        .collect()
}

fn id(line: &[&[u8]], at: usize) -> Option<u32> {
    let text = std::str::from_utf8(line.get(at)?).ok()?;
    text.parse().ok().filter(|id| *id <= MAX_ID)
}
