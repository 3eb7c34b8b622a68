//! User and groups of a container, out of a request and the image's account files
//! (passwd(5), group(5)).
//!
//! The files are the image's and hostile: lines are looked at one by one, nothing is collected
//! that the request does not name, and the reader bounds the bytes (see [`MAX_FILE_BYTES`]).

use serde::{Deserialize, Serialize};

use crate::process::id;
use crate::{Error, limits, oci};

/// Longest account file that may be passed in; callers read no more.
pub const MAX_FILE_BYTES: usize = limits::ACCOUNT_FILE_BYTES;

/// Whether groups that the image gives the user count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum GroupsPolicy {
    /// Those and the given ones.
    #[default]
    Merge,
    /// Only the given ones and the primary group.
    Strict,
}

/// Who a request wants a container to run as.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// `run_as_user`.
    pub uid: Option<i64>,
    /// `run_as_group`.
    pub gid: Option<i64>,
    /// `run_as_username`, may hold `user:group`.
    pub name: String,
    /// `supplemental_groups`.
    pub groups: Vec<i64>,
    /// `supplemental_groups_policy`.
    pub policy: GroupsPolicy,
}

/// The text of an image's account files; empty where there is none.
#[derive(Debug, Clone, Copy, Default)]
pub struct Accounts<'a> {
    /// `/etc/passwd`.
    pub passwd: &'a [u8],
    /// `/etc/group`.
    pub group: &'a [u8],
}

/// Works out user id, primary group and further groups.
///
/// # Errors
/// [`Error::UnknownUser`] for a name the image does not know, [`Error::IdRange`] for a number that
/// is none (an over-long one is never looked up as a name: CVE-2026-46680).
pub fn resolve(
    request: &Request,
    image_user: &str,
    accounts: Accounts<'_>,
) -> Result<oci::User, Error> {
    let wanted = match (request.uid, request.name.as_str()) {
        (Some(uid), _) => uid.to_string(),
        (None, "") => image_user.to_owned(),
        (None, name) => name.to_owned(),
    };
    let (user, group) = wanted
        .split_once(':')
        .map_or((wanted.as_str(), None), |(user, group)| (user, Some(group)));
    let user = if user.is_empty() { "0" } else { user };
    let entry = find_user(accounts.passwd, user)?;
    let (uid, name, mut gid) = match entry {
        Some(entry) => (entry.uid, Some(entry.name), entry.gid),
        None => (
            number(user)?.ok_or_else(|| Error::UnknownUser(user.to_owned()))?,
            None,
            0,
        ),
    };
    if let Some(group) = group.filter(|group| !group.is_empty()) {
        gid = find_group(accounts.group, group)?;
    }
    if let Some(given) = request.gid {
        gid = id(given)?;
    }
    let mut groups = Vec::new();
    // A primary group counts as a further one too, or "deny this group" rules would not see it
    // (CVE-2022-2995).
    groups.push(gid);
    if request.policy == GroupsPolicy::Merge
        && let Some(name) = name
    {
        groups.extend(groups_of(accounts.group, name));
    }
    for given in &request.groups {
        groups.push(id(*given)?);
    }
    let mut additional_gids = Vec::with_capacity(groups.len());
    for group in groups {
        if !additional_gids.contains(&group) {
            additional_gids.push(group);
        }
    }
    Ok(oci::User {
        uid,
        gid,
        additional_gids,
    })
}

struct Entry<'a> {
    name: &'a [u8],
    uid: u32,
    gid: u32,
}

/// The entry whose name or number is `user`: a number stands for itself before it is a name.
fn find_user<'a>(passwd: &'a [u8], user: &str) -> Result<Option<Entry<'a>>, Error> {
    let wanted = number(user)?;
    Ok(lines(passwd).find_map(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        let name = fields.next()?;
        let uid = decimal(fields.nth(1)?)?;
        let gid = decimal(fields.next()?)?;
        let found = wanted.map_or(name == user.as_bytes(), |wanted| wanted == uid);
        found.then_some(Entry { name, uid, gid })
    }))
}

fn find_group(group: &[u8], wanted: &str) -> Result<u32, Error> {
    if let Some(gid) = number(wanted)? {
        return Ok(gid);
    }
    let found = lines(group).find_map(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        (fields.next()? == wanted.as_bytes()).then(|| decimal(fields.nth(1)?))?
    });
    found.ok_or_else(|| Error::UnknownUser(wanted.to_owned()))
}

/// Groups that list `user` as a member. At most as many as the kernel takes (NGROUPS_MAX).
fn groups_of<'a>(group: &'a [u8], user: &'a [u8]) -> impl Iterator<Item = u32> + 'a {
    const NGROUPS_MAX: usize = 65536;
    let found = lines(group).filter_map(move |line| {
        let mut fields = line.split(|byte| *byte == b':');
        let gid = decimal(fields.nth(2)?)?;
        fields
            .next()?
            .split(|byte| *byte == b',')
            .any(|member| member == user)
            .then_some(gid)
    });
    found.take(NGROUPS_MAX)
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty() && line.first() != Some(&b'#'))
}

fn decimal(text: &[u8]) -> Option<u32> {
    std::str::from_utf8(text)
        .ok()?
        .parse()
        .ok()
        .filter(|id| *id <= limits::MAX_ID)
}

/// `text` as an id; `None` when it is a name. Digits that make no id are an error, never a name.
fn number(text: &str) -> Result<Option<u32>, Error> {
    if text.is_empty()
        || !text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'-' || byte == b'+')
    {
        return Ok(None);
    }
    let range = || Error::IdRange(text.to_owned());
    // Ten digits hold every id; more would only serve to hide one.
    if text.len() > 10 {
        return Err(range());
    }
    text.parse::<u32>()
        .ok()
        .filter(|id| *id <= limits::MAX_ID)
        .map(Some)
        .ok_or_else(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCOUNTS: Accounts<'_> = Accounts {
        passwd: b"root:x:0:0:root:/root:/bin/sh\nann:x:1000:100::/home/ann:/bin/sh\n99999999999:x:0:0::/:/bin/sh\n",
        group: b"root:x:0:\nusers:x:100:\nwheel:x:10:bob,ann\naudio:x:29:ann\n",
    };

    fn user(request: &Request, image: &str) -> Result<(u32, u32, Vec<u32>), Error> {
        resolve(request, image, ACCOUNTS).map(|user| (user.uid, user.gid, user.additional_gids))
    }

    #[test]
    fn users_of_images() {
        let none = Request::default();
        for (image, wanted) in [
            ("", Ok((0, 0, vec![0]))),
            ("ann", Ok((1000, 100, vec![100, 10, 29]))),
            ("1000", Ok((1000, 100, vec![100, 10, 29]))),
            ("7", Ok((7, 0, vec![0]))),
            ("ann:wheel", Ok((1000, 10, vec![10, 29]))),
            ("7:8", Ok((7, 8, vec![8]))),
            ("eve", Err(Error::UnknownUser("eve".into()))),
            ("4294967296", Err(Error::IdRange("4294967296".into()))),
            ("2147483648", Err(Error::IdRange("2147483648".into()))),
            ("-1", Err(Error::IdRange("-1".into()))),
            (
                "00000000000000000000",
                Err(Error::IdRange("00000000000000000000".into())),
            ),
            ("99999999999", Err(Error::IdRange("99999999999".into()))),
        ] {
            assert_eq!(user(&none, image), wanted, "{image:?}");
        }
    }

    #[test]
    fn requests_override_the_image() {
        let request = Request {
            uid: Some(1000),
            gid: Some(5),
            groups: vec![7, 10],
            ..Request::default()
        };
        assert_eq!(user(&request, "root"), Ok((1000, 5, vec![5, 10, 29, 7])));
        let strict = Request {
            policy: GroupsPolicy::Strict,
            ..request
        };
        assert_eq!(user(&strict, "root"), Ok((1000, 5, vec![5, 7, 10])));
        let by_name = Request {
            name: "ann".into(),
            ..Request::default()
        };
        assert_eq!(user(&by_name, "root"), Ok((1000, 100, vec![100, 10, 29])));
        assert!(
            user(
                &Request {
                    uid: Some(-1),
                    ..Request::default()
                },
                ""
            )
            .is_err()
        );
    }
}
