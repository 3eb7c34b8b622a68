//! How a session's end is told: Kubernetes' `metav1.Status`, as far as clients look into it.

use serde::Serialize;

use crate::backend::{End, Refusal};

/// Which form a protocol has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// JSON, of a success too: version 4 and later.
    Json,
    /// The message alone, and nothing of a success.
    Text,
}

/// An end.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Status {
    metadata: Empty,
    status: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Details>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u16>,
}

#[derive(Debug, Default, Serialize)]
struct Empty {}

#[derive(Debug, Serialize)]
struct Details {
    causes: [Cause; 1],
}

#[derive(Debug, Serialize)]
struct Cause {
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    message: String,
}

impl Status {
    pub(crate) fn success() -> Self {
        Self {
            status: "Success",
            ..Self::default()
        }
    }

    /// Something could not be done.
    pub(crate) fn refused(refusal: &Refusal) -> Self {
        let cause = Cause {
            reason: None,
            message: refusal.clone(),
        };
        Self {
            status: "Failure",
            message: format!("Internal error occurred: {refusal}"),
            reason: Some("InternalError"),
            details: Some(Details { causes: [cause] }),
            code: Some(500),
            ..Self::default()
        }
    }

    /// A process has ended.
    pub(crate) fn of(end: &End) -> Self {
        let code = match end {
            End::Exited(0) => return Self::success(),
            End::Unknown(refusal) => return Self::refused(refusal),
            End::Exited(code) => code,
        };
        let cause = Cause {
            reason: Some("ExitCode"),
            message: code.to_string(),
        };
        Self {
            status: "Failure",
            message: format!("command terminated with non-zero exit code: {code}"),
            reason: Some("NonZeroExitCode"),
            details: Some(Details { causes: [cause] }),
            ..Self::default()
        }
    }

    /// What is written on the error stream; may be nothing.
    pub(crate) fn to_bytes(&self, form: Form) -> Vec<u8> {
        match form {
            // A struct of strings and numbers is always JSON.
            Form::Json => serde_json::to_vec(self).unwrap_or_default(),
            Form::Text if self.status == "Success" => Vec::new(),
            Form::Text => self.message.clone().into_bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_as_clients_read_them() {
        for (end, json, text) in [
            (End::Exited(0), r#"{"metadata":{},"status":"Success"}"#, ""),
            (
                End::Exited(7),
                r#"{"metadata":{},"status":"Failure","message":"command terminated with non-zero exit code: 7","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"7"}]}}"#,
                "command terminated with non-zero exit code: 7",
            ),
            (
                End::Unknown("lost".into()),
                r#"{"metadata":{},"status":"Failure","message":"Internal error occurred: lost","reason":"InternalError","details":{"causes":[{"message":"lost"}]},"code":500}"#,
                "Internal error occurred: lost",
            ),
        ] {
            let status = Status::of(&end);
            let told = |form| String::from_utf8(status.to_bytes(form)).unwrap();
            assert_eq!(told(Form::Json), json);
            assert_eq!(told(Form::Text), text);
        }
    }
}
