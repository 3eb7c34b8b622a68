//! User namespaces and their mappings.

use pods::request::{IdMap, IdRange};
use tonic::Status;

use super::invalid;
use crate::v1;

const FIELD: &str = "namespace_options.userns_options";

/// The map of the pod's user namespace; `None` for the node's.
pub(super) fn user_namespace(options: &v1::NamespaceOption) -> Result<Option<IdMap>, Status> {
    let Some(asked) = &options.userns_options else {
        return Ok(None);
    };
    match v1::NamespaceMode::try_from(asked.mode) {
        Ok(v1::NamespaceMode::Pod) => match mapped(FIELD, &asked.uids, &asked.gids)? {
            None => Err(invalid(FIELD, "has no mappings")),
            map => Ok(map),
        },
        Ok(v1::NamespaceMode::Node) if asked.uids.is_empty() && asked.gids.is_empty() => Ok(None),
        Ok(v1::NamespaceMode::Node) => {
            Err(invalid(FIELD, "the node's user namespace has no mappings"))
        }
        Ok(other) => {
            let name = other.as_str_name();
            Err(invalid(FIELD, format!("unsupported pod mode: {name:?}")))
        }
        Err(_) => Err(invalid(
            FIELD,
            format!("{} is no namespace mode", asked.mode),
        )),
    }
}

/// The map that two lists of mappings stand for; `None` where both are empty.
pub(super) fn mapped(
    field: &str,
    users: &[v1::IdMapping],
    groups: &[v1::IdMapping],
) -> Result<Option<IdMap>, Status> {
    if users.is_empty() && groups.is_empty() {
        return Ok(None);
    }
    Ok(Some(IdMap {
        users: range(field, users)?,
        groups: range(field, groups)?,
    }))
}

/// One mapping that begins with root, as the kubelet sends it.
fn range(field: &str, mappings: &[v1::IdMapping]) -> Result<IdRange, Status> {
    let [one] = mappings else {
        let text = format!(
            "one mapping of users and groups each, not {}",
            mappings.len()
        );
        return Err(invalid(field, text));
    };
    if one.container_id != 0 {
        return Err(invalid(field, "id 0 of the container is not mapped"));
    }
    // The last number stands for no id (credentials(7)).
    if one.length == 0 || one.host_id > u32::MAX - one.length {
        let text = format!("{} ids from {} on", one.length, one.host_id);
        return Err(invalid(field, text));
    }
    Ok(IdRange {
        host: one.host_id,
        count: one.length,
    })
}

/// A map as it came.
pub(crate) fn on_wire(range: IdRange) -> Vec<v1::IdMapping> {
    vec![v1::IdMapping {
        host_id: range.host,
        container_id: 0,
        length: range.count,
    }]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asks(mode: v1::NamespaceMode, mappings: &[(u32, u32, u32)]) -> v1::NamespaceOption {
        let mappings: Vec<_> = mappings
            .iter()
            .map(|&(container_id, host_id, length)| v1::IdMapping {
                host_id,
                container_id,
                length,
            })
            .collect();
        v1::NamespaceOption {
            userns_options: Some(v1::UserNamespace {
                mode: mode as i32,
                uids: mappings.clone(),
                gids: mappings,
            }),
            ..Default::default()
        }
    }

    #[test]
    fn a_user_namespace_is_as_asked_or_refused() {
        use v1::NamespaceMode::{Container, Node, Pod, Target};
        let one = (0, 1000, 65_536);
        let range = IdRange {
            host: 1000,
            count: 65_536,
        };
        let map = IdMap {
            users: range,
            groups: range,
        };
        for (mode, mappings, wanted) in [
            (Pod, vec![one], Some(Some(map))),
            (Node, vec![], Some(None)),
            (Node, vec![one], None),
            (Pod, vec![], None),
            (Pod, vec![one, (65_536, 200_000, 1)], None),
            (Pod, vec![(1, 1000, 10)], None),
            (Pod, vec![(0, 1000, 0)], None),
            (Pod, vec![(0, u32::MAX - 9, 10)], None),
            (Container, vec![], None),
            (Target, vec![], None),
        ] {
            let got = user_namespace(&asks(mode, &mappings));
            assert_eq!(got.ok(), wanted, "{mode:?} {mappings:?}");
        }
        let none = user_namespace(&v1::NamespaceOption::default());
        assert_eq!(none.ok(), Some(None));
    }

    #[test]
    fn users_without_groups_are_refused() {
        let mut asked = asks(v1::NamespaceMode::Pod, &[(0, 1000, 10)]);
        if let Some(users) = &mut asked.userns_options {
            users.gids.clear();
        }
        assert!(user_namespace(&asked).is_err());
    }
}
