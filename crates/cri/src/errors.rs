//! The one place where a domain error becomes a gRPC code and a text that the kubelet knows.
//!
//! | error | code |
//! |---|---|
//! | absent | NotFound |
//! | a request that can't be meant | InvalidArgument |
//! | the same name with another request | AlreadyExists |
//! | not in the state for it, image in use or refused by policy, no such CDI device | FailedPrecondition |
//! | time is spent | DeadlineExceeded |
//! | disk full, out of processes, descriptors or memory | ResourceExhausted |
//! | registry or network not there | Unavailable |
//! | credentials refused | Unauthenticated |
//! | damaged or lying data from a registry | DataLoss |
//! | the runtime refused, everything else | Unknown |
//!
//! The kubelet parses `RegistryUnavailable`, `SignatureValidationFailed` and
//! `ImageVolumeMountFailed` at the beginning of a message.

use tonic::{Code, Status};

/// The status of a failed operation on pods or containers.
#[must_use]
pub fn status(error: &pods::Error) -> Status {
    use pods::Error;
    let code = match error {
        Error::NotFound { .. } | Error::NoImage(_) => Code::NotFound,
        Error::Ambiguous { .. } | Error::Invalid(_) | Error::Spec(_) | Error::Handler(_) => {
            Code::InvalidArgument
        }
        Error::AlreadyExists(_) => Code::AlreadyExists,
        Error::WrongState(_) | Error::Step(_) | Error::Cdi(_) => Code::FailedPrecondition,
        Error::TimedOut(_) => Code::DeadlineExceeded,
        Error::NetworkNotReady(_) => Code::Unavailable,
        Error::Image(error) => return image_status(error),
        error if error.is_out_of_space() || error.is_out_of_resources() => Code::ResourceExhausted,
        _ => Code::Unknown,
    };
    Status::new(code, text(error))
}

/// The status of a failed operation on images.
#[must_use]
pub fn image_status(error: &image::Error) -> Status {
    use image::Error;
    let code = match error.root() {
        Error::BadReference { .. } => Code::InvalidArgument,
        Error::NotFound { .. } => Code::NotFound,
        Error::Unauthorized { .. } => Code::Unauthenticated,
        Error::Blocked { .. }
        | Error::Refused(_)
        | Error::Policy(_)
        | Error::InUse { .. }
        | Error::Encrypted { .. }
        | Error::ReadOnly { .. } => Code::FailedPrecondition,
        Error::RegistryUnavailable { .. } => Code::Unavailable,
        Error::DigestMismatch { .. } | Error::BadManifest { .. } | Error::BadLayer { .. } => {
            Code::DataLoss
        }
        Error::NoSpace(_) => Code::ResourceExhausted,
        _ => Code::Unknown,
    };
    Status::new(code, text(error))
}

/// An error with its causes, on one line, each told once.
pub(crate) fn text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn codes_follow_the_table() {
        let io = |kind| pods::Error::Io {
            doing: "write",
            path: "/x".into(),
            source: io::Error::from(kind),
        };
        for (error, code) in [
            (
                pods::Error::NotFound {
                    what: "container",
                    id: "x".into(),
                },
                Code::NotFound,
            ),
            (pods::Error::Invalid("x".into()), Code::InvalidArgument),
            (
                pods::Error::WrongState("x".into()),
                Code::FailedPrecondition,
            ),
            (pods::Error::TimedOut("x".into()), Code::DeadlineExceeded),
            (io(io::ErrorKind::StorageFull), Code::ResourceExhausted),
            (io(io::ErrorKind::PermissionDenied), Code::Unknown),
            (pods::Error::Image(image::Error::Interrupted), Code::Unknown),
        ] {
            assert_eq!(status(&error).code(), code, "{error}");
        }
    }

    #[test]
    fn the_kubelets_words_come_first() {
        let gone = image::Error::RegistryUnavailable {
            registry: "r".into(),
            detail: "connection refused".into(),
        };
        assert!(
            image_status(&gone)
                .message()
                .starts_with("RegistryUnavailable: ")
        );
    }
}
