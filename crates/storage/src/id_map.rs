//! Owners of files in a user namespace (`user_namespaces(7)`).

use std::os::fd::OwnedFd;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Users and groups of a user namespace as they are outside of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMap {
    /// Users.
    pub users: IdRange,
    /// Groups.
    pub groups: IdRange,
}

/// Ids `0..count` inside are `host..host + count` outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// The first outside.
    pub host: u32,
    /// How many; at least one.
    pub count: u32,
}

/// A user namespace with its map.
#[derive(Clone, Debug)]
pub struct UserNamespace {
    /// Its map.
    pub map: IdMap,
    /// The namespace itself.
    pub namespace: Arc<OwnedFd>,
}

impl IdMap {
    /// The owner outside of what belongs to `user` and `group` inside.
    #[must_use]
    pub fn outside(&self, user: u32, group: u32) -> Option<(u32, u32)> {
        Some((self.users.outside(user)?, self.groups.outside(group)?))
    }

    /// Owner outside of what belongs to root inside.
    #[must_use]
    pub fn root(&self) -> (u32, u32) {
        (self.users.host, self.groups.host)
    }
}

impl IdRange {
    /// The id outside of `inside`.
    #[must_use]
    pub fn outside(&self, inside: u32) -> Option<u32> {
        (inside < self.count).then(|| self.host.checked_add(inside))?
    }

    /// As records have it, a list of one.
    pub(crate) fn to_json(self) -> Value {
        json!([{"container_id": 0, "host_id": self.host, "size": self.count}])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_beyond_the_range_has_none_outside() {
        let range = IdRange {
            host: 1000,
            count: 10,
        };
        assert_eq!(range.outside(0), Some(1000));
        assert_eq!(range.outside(9), Some(1009));
        assert_eq!(range.outside(10), None);
    }
}
