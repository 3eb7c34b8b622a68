//! Seccomp profiles that come as OCI artifacts: an annotation of the pod or of the image names one.
//! It counts only where the pod's runtime handler allows the annotation, and where the request says
//! no profile or "unconfined": the security context's own word goes first.

use std::collections::BTreeMap;

use crate::node::Node;
use crate::operations::chain;
use crate::request::Profile;
use crate::state::pod::Pod;
use crate::{ContainerRequest, Error, handlers};

/// The annotation, by its new and its old name.
const NAMES: [&str; 2] = [
    "seccomp-profile.crio.io",
    "seccomp-profile.kubernetes.cri-o.io",
];
/// Bytes of a profile (CRI-O).
const BYTES: usize = 1 << 20;

/// The profile for a container, if one is named; pulled in the pod's namespace.
pub(crate) async fn profile(
    node: &Node,
    pod: &Pod,
    request: &ContainerRequest,
    of_image: &BTreeMap<String, String>,
) -> Result<Option<Vec<u8>>, Error> {
    let open = matches!(request.seccomp, Profile::Unset | Profile::Unconfined);
    let handler = handlers::of(node, pod)?;
    let allowed = &handler.config.allowed_annotations;
    if request.privileged || !open || !is_allowed(allowed) {
        return Ok(None);
    }
    let Some(reference) = reference(&request.name, &pod.request.annotations, of_image) else {
        return Ok(None);
    };
    let namespace = &pod.request.key.namespace;
    let data = node.images.artifact_data(reference, namespace, BYTES).await;
    let data = data.map_err(|error| {
        Error::Invalid(format!("seccomp profile {reference}: {}", chain(&*error)))
    })?;
    tracing::info!(pod = %pod.id, container = %request.name, profile = reference, "seccomp profile of an artifact");
    Ok(Some(data))
}

fn is_allowed(allowed: &[String]) -> bool {
    let mut allowed = allowed.iter();
    allowed.any(|prefix| NAMES.iter().any(|name| name.starts_with(prefix.as_str())))
}

/// Which profile is meant: the pod's for the container, the pod's for all of its containers; then
/// the image's for any, for a container of that name, for all of a pod.
fn reference<'a>(
    container: &str,
    of_pod: &'a BTreeMap<String, String>,
    of_image: &'a BTreeMap<String, String>,
) -> Option<&'a str> {
    let own = format!("/{container}");
    [
        (of_pod, own.as_str()),
        (of_pod, "/POD"),
        (of_image, ""),
        (of_image, own.as_str()),
        (of_image, "/POD"),
    ]
    .into_iter()
    .find_map(|(annotations, suffix)| {
        let mut keys = NAMES.iter().map(|name| format!("{name}{suffix}"));
        keys.find_map(|key| annotations.get(&key))
    })
    .map(String::as_str)
    .filter(|reference| !reference.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_annotation_names_the_profile() {
        let annotations = |list: &[(&str, &str)]| -> BTreeMap<String, String> {
            let list = list
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
            list.collect()
        };
        let old = "seccomp-profile.kubernetes.cri-o.io";
        let (web, pod) = (format!("{old}/web"), format!("{old}/POD"));
        for (of_pod, of_image, meant) in [
            (
                annotations(&[(&web, "a"), (&pod, "b")]),
                annotations(&[(old, "c")]),
                Some("a"),
            ),
            (
                annotations(&[(&pod, "b")]),
                annotations(&[(old, "c")]),
                Some("b"),
            ),
            (
                annotations(&[(old, "x")]),
                annotations(&[(old, "c"), (&web, "d")]),
                Some("c"),
            ),
            (
                annotations(&[]),
                annotations(&[(&web, "d"), (&pod, "e")]),
                Some("d"),
            ),
            (annotations(&[]), annotations(&[(&pod, "e")]), Some("e")),
            (
                annotations(&[("seccomp-profile.crio.io/web", "n"), (&web, "a")]),
                annotations(&[]),
                Some("n"),
            ),
            (
                annotations(&[(&format!("{old}/db"), "a")]),
                annotations(&[]),
                None,
            ),
        ] {
            assert_eq!(reference("web", &of_pod, &of_image), meant);
        }
    }

    #[test]
    fn a_handler_allows_it_by_either_name() {
        assert!(!is_allowed(&[]));
        assert!(!is_allowed(&["io.kubernetes.cri-o.userns-mode".into()]));
        assert!(is_allowed(&[NAMES[0].into()]));
        assert!(is_allowed(&[NAMES[1].into()]));
    }
}
