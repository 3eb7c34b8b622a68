//! Requests, checked into domain values: what comes out can be acted on.

mod container;
mod id_map;
mod pod;

pub(crate) use container::{container, resources};
pub(crate) use id_map::on_wire as mappings_on_wire;
pub(crate) use pod::{pod, resources as pod_resources};

use std::path::{Component, PathBuf};
use std::time::Duration;

use pods::request::{PidMode, Profile, Shared};
use tonic::Status;

use crate::v1;
use crate::v1::security_profile::ProfileType;

/// An InvalidArgument that names the field.
pub(crate) fn invalid(field: &str, reason: impl std::fmt::Display) -> Status {
    Status::invalid_argument(format!("{field}: {reason}"))
}

/// Where a checkpoint goes, and how long it may take: seconds, 0 for the default.
pub(crate) fn checkpoint(
    request: &v1::CheckpointContainerRequest,
) -> Result<(PathBuf, Option<Duration>), Status> {
    let location = PathBuf::from(&request.location);
    let plain = |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
    if !location.is_absolute() || !location.components().all(plain) {
        let reason = format!("{:?} is not an absolute path", request.location);
        return Err(invalid("location", reason));
    }
    let timeout = u64::try_from(request.timeout).map_err(|_| invalid("timeout", "is negative"))?;
    Ok((
        location,
        (timeout > 0).then(|| Duration::from_secs(timeout)),
    ))
}

/// A field that has to be there.
pub(crate) fn required<T>(field: &str, value: Option<T>) -> Result<T, Status> {
    value.ok_or_else(|| invalid(field, "is missing"))
}

fn not_empty(field: &str, value: String) -> Result<String, Status> {
    if value.is_empty() {
        Err(invalid(field, "is empty"))
    } else {
        Ok(value)
    }
}

/// A name that becomes part of a record's name and of annotations.
fn name(field: &str, value: String) -> Result<String, Status> {
    let value = not_empty(field, value)?;
    if value.chars().any(|c| c.is_control() || c == '/') {
        return Err(invalid(
            field,
            format!("{value:?} holds a slash or control character"),
        ));
    }
    Ok(value)
}

fn shared(field: &str, mode: i32) -> Result<Shared, Status> {
    match v1::NamespaceMode::try_from(mode) {
        Ok(v1::NamespaceMode::Pod) => Ok(Shared::Pod),
        Ok(v1::NamespaceMode::Node) => Ok(Shared::Host),
        Ok(other) => Err(invalid(
            field,
            format!("{} is not possible here", other.as_str_name()),
        )),
        Err(_) => Err(invalid(field, format!("{mode} is no namespace mode"))),
    }
}

fn pid_mode(options: &v1::NamespaceOption) -> Result<PidMode, Status> {
    match v1::NamespaceMode::try_from(options.pid) {
        Ok(v1::NamespaceMode::Pod) => Ok(PidMode::Pod),
        Ok(v1::NamespaceMode::Container) => Ok(PidMode::Container),
        Ok(v1::NamespaceMode::Node) => Ok(PidMode::Host),
        Ok(v1::NamespaceMode::Target) => Ok(PidMode::Target(not_empty(
            "namespace_options.target_id",
            options.target_id.clone(),
        )?)),
        Err(_) => Err(invalid(
            "namespace_options.pid",
            format!("{} is no namespace mode", options.pid),
        )),
    }
}

/// The parts of an SELinux label; a part must not hold a second one.
fn selinux(options: Option<v1::SeLinuxOption>) -> Result<spec::selinux::Request, Status> {
    let asked = options.unwrap_or_default();
    for part in [&asked.user, &asked.role, &asked.r#type] {
        if part.chars().any(|c| c == ':' || c.is_control() || c == '"') {
            return Err(invalid(
                "selinux_options",
                format!("{part:?} is no part of a label"),
            ));
        }
    }
    if asked.level.chars().any(|c| c.is_control() || c == '"') {
        let text = format!("{:?} is no level", asked.level);
        return Err(invalid("selinux_options", text));
    }
    Ok(spec::selinux::Request {
        user: asked.user,
        role: asked.role,
        kind: asked.r#type,
        level: asked.level,
    })
}

/// A profile in the new field, else in the deprecated text (`runtime/default`, `unconfined`,
/// `localhost/…`).
fn profile(field: &str, new: Option<&v1::SecurityProfile>, old: &str) -> Result<Profile, Status> {
    let Some(new) = new else {
        return match old {
            "" => Ok(Profile::Unset),
            "runtime/default" | "docker/default" => Ok(Profile::RuntimeDefault),
            "unconfined" => Ok(Profile::Unconfined),
            local => match local.strip_prefix("localhost/") {
                Some(name) => Ok(Profile::Localhost(not_empty(field, name.to_owned())?)),
                None => Err(invalid(field, format!("{old:?} is no profile"))),
            },
        };
    };
    match ProfileType::try_from(new.profile_type) {
        Ok(ProfileType::RuntimeDefault) => Ok(Profile::RuntimeDefault),
        Ok(ProfileType::Unconfined) => Ok(Profile::Unconfined),
        Ok(ProfileType::Localhost) => Ok(Profile::Localhost(not_empty(
            &format!("{field}.localhost_ref"),
            new.localhost_ref.clone(),
        )?)),
        Err(_) => Err(invalid(
            field,
            format!("{} is no profile type", new.profile_type),
        )),
    }
}

/// An AppArmor profile: of its name both fields may have `localhost/` before it, and the deprecated
/// one nothing, as CRI-O takes them.
fn apparmor(new: Option<&v1::SecurityProfile>, old: &str) -> Result<Profile, Status> {
    let field = "apparmor";
    let bare = !old.starts_with("localhost/")
        && !matches!(
            old,
            "" | "runtime/default" | "docker/default" | "unconfined"
        );
    if new.is_none() && bare {
        return Ok(Profile::Localhost(old.to_owned()));
    }
    match profile(field, new, old)? {
        Profile::Localhost(name) => {
            let name = name.strip_prefix("localhost/").unwrap_or(&name);
            Ok(Profile::Localhost(not_empty(field, name.to_owned())?))
        }
        other => Ok(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apparmor_profiles_by_name() {
        let new = |name: &str| v1::SecurityProfile {
            profile_type: ProfileType::Localhost as i32,
            localhost_ref: name.into(),
        };
        let named = |name: &str| Some(Profile::Localhost(name.into()));
        for (new, old, wanted) in [
            (None, "", Some(Profile::Unset)),
            (None, "unconfined", Some(Profile::Unconfined)),
            (None, "x", named("x")),
            (None, "localhost/x", named("x")),
            (None, "localhost/", None),
            (Some(new("x")), "y", named("x")),
            (Some(new("localhost/x")), "localhost/y", named("x")),
            (Some(new("localhost/")), "localhost/y", None),
            (
                Some(v1::SecurityProfile::default()),
                "y",
                Some(Profile::RuntimeDefault),
            ),
        ] {
            let found = apparmor(new.as_ref(), old).ok();
            assert_eq!(found, wanted, "{new:?} {old:?}");
        }
    }

    #[test]
    fn profiles_in_both_spellings() {
        let new = |kind: ProfileType, name: &str| v1::SecurityProfile {
            profile_type: kind as i32,
            localhost_ref: name.into(),
        };
        for (new, old, wanted) in [
            (None, "", Some(Profile::Unset)),
            (None, "runtime/default", Some(Profile::RuntimeDefault)),
            (
                None,
                "localhost/x.json",
                Some(Profile::Localhost("x.json".into())),
            ),
            (None, "other", None),
            (
                Some(new(ProfileType::Unconfined, "")),
                "runtime/default",
                Some(Profile::Unconfined),
            ),
            (Some(new(ProfileType::Localhost, "")), "", None),
        ] {
            assert_eq!(
                profile("seccomp", new.as_ref(), old).ok(),
                wanted,
                "{new:?} {old:?}"
            );
        }
    }
}
