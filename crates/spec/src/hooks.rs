//! OCI hook files: programs of the node's that containers get if they are what the file says
//! (oci-hooks(5), schemas 1.0.0 and 0.1.0).
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::collections::BTreeMap;

use regex::Regex;
use serde::Deserialize;

use crate::{limits, oci};

/// A hook and which containers get it.
#[derive(Debug, Clone)]
pub struct HookFile {
    hook: oci::Hook,
    stages: Vec<String>,
    when: When,
}

/// What a container is held against.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Annotations of the container and its pod.
    pub annotations: &'a BTreeMap<String, String>,
    /// The program that it runs, `process.args[0]`.
    pub command: &'a str,
    /// Whether its request has mounts.
    pub has_bind_mounts: bool,
}

#[derive(Debug, Clone, Default)]
struct When {
    always: Option<bool>,
    has_bind_mounts: Option<bool>,
    /// Key and value.
    annotations: Vec<(Regex, Regex)>,
    commands: Vec<Regex>,
    /// One condition is enough: schema 0.1.0.
    any: bool,
}

impl HookFile {
    /// Takes a file apart.
    ///
    /// # Errors
    /// What is wrong with it, for whoever wrote it.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() > limits::HOOK_FILE_BYTES {
            return Err(format!("larger than {} bytes", limits::HOOK_FILE_BYTES));
        }
        let version: Version = json(bytes)?;
        match version.version.as_str() {
            "1.0.0" => json::<Current>(bytes)?.check(),
            "" | "0.1.0" => json::<Old>(bytes)?.check(),
            other => Err(format!("unrecognized hook version: {other:?}")),
        }
    }

    /// The hook's program.
    #[must_use]
    pub fn program(&self) -> &str {
        &self.hook.path
    }

    /// Adds the hook to a container's spec, if it is for that container; whether it is.
    pub fn apply(&self, subject: Subject<'_>, spec: &mut oci::Spec) -> bool {
        if !self.when.matches(subject) {
            return false;
        }
        let hooks = spec.hooks.get_or_insert_default();
        for stage in &self.stages {
            // The specification deprecates the one for the other; both are run at the same point.
            let stage = match stage.as_str() {
                "prestart" => "createRuntime",
                stage => stage,
            };
            if let Some(hooks) = hooks.stage(stage) {
                hooks.push(self.hook.clone());
            }
        }
        true
    }
}

impl When {
    fn matches(&self, subject: Subject<'_>) -> bool {
        let annotated = |(key, value): &(Regex, Regex)| {
            let mut annotations = subject.annotations.iter();
            annotations.any(|(k, v)| key.is_match(k) && value.is_match(v))
        };
        let commanded = || {
            let mut commands = self.commands.iter();
            commands.any(|command| command.is_match(subject.command))
        };
        let conditions = [
            self.always,
            // False never holds, as in the peers.
            self.has_bind_mounts
                .map(|wanted| wanted && subject.has_bind_mounts),
            (!self.commands.is_empty()).then(commanded),
        ];
        let conditions = conditions.into_iter().flatten();
        let mut conditions = conditions.chain(self.annotations.iter().map(annotated));
        if self.any {
            conditions.any(|holds| holds)
        } else {
            conditions.all(|holds| holds)
        }
    }

    fn is_empty(&self) -> bool {
        self.always.is_none()
            && self.has_bind_mounts.is_none()
            && self.annotations.is_empty()
            && self.commands.is_empty()
    }
}

fn json<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, String> {
    serde_json::from_slice(bytes).map_err(|wrong| wrong.to_string())
}

#[derive(Debug, Deserialize)]
struct Version {
    #[serde(default)]
    version: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Current {
    #[serde(rename = "version")]
    _version: String,
    hook: Program,
    when: Conditions,
    stages: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Program {
    path: String,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<String>,
    timeout: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Conditions {
    always: Option<bool>,
    annotations: BTreeMap<String, String>,
    commands: Vec<String>,
    has_bind_mounts: Option<bool>,
}

impl Current {
    fn check(self) -> Result<HookFile, String> {
        let annotations = self.when.annotations.iter();
        let annotations = annotations
            .map(|(key, value)| Ok((pattern(key)?, pattern(value)?)))
            .collect::<Result<_, String>>()?;
        let when = When {
            always: self.when.always,
            has_bind_mounts: self.when.has_bind_mounts,
            annotations,
            commands: patterns(&self.when.commands)?,
            any: false,
        };
        let hook = oci::Hook {
            path: self.hook.path,
            args: self.hook.args,
            env: self.hook.env,
            timeout: self.hook.timeout,
        };
        HookFile::checked(hook, self.stages, when)
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Old {
    #[serde(default, rename = "version")]
    _version: String,
    hook: String,
    #[serde(default)]
    arguments: Vec<String>,
    #[serde(alias = "stage")]
    stages: Vec<String>,
    #[serde(default, alias = "cmd")]
    cmds: Vec<String>,
    #[serde(default, alias = "annotation")]
    annotations: Vec<String>,
    #[serde(rename = "hasbindmounts")]
    has_bind_mounts: Option<bool>,
}

impl Old {
    fn check(self) -> Result<HookFile, String> {
        let annotations = match self.annotations.is_empty() {
            true => Vec::new(),
            false => vec![(pattern(".*")?, pattern(&self.annotations.join("|"))?)],
        };
        let when = When {
            always: None,
            has_bind_mounts: self.has_bind_mounts,
            annotations,
            commands: patterns(&self.cmds)?,
            any: true,
        };
        let mut args = self.arguments;
        if !args.is_empty() {
            args.insert(0, self.hook.clone());
        }
        let hook = oci::Hook {
            path: self.hook,
            args,
            ..oci::Hook::default()
        };
        HookFile::checked(hook, self.stages, when)
    }
}

impl HookFile {
    fn checked(hook: oci::Hook, stages: Vec<String>, when: When) -> Result<Self, String> {
        if !hook.path.starts_with('/') {
            return Err(format!("hook path {:?} is not absolute", hook.path));
        }
        if hook.timeout.is_some_and(|seconds| seconds <= 0) {
            return Err("timeout is not greater than zero".to_owned());
        }
        if let Some(pair) = hook.env.iter().find(|pair| !pair.contains('=')) {
            return Err(format!("invalid environment variable {pair:?}"));
        }
        let mut known = oci::Hooks::default();
        if let Some(stage) = stages.iter().find(|stage| known.stage(stage).is_none()) {
            return Err(format!("unknown stage {stage:?}"));
        }
        if stages.is_empty() {
            return Err("no stages".to_owned());
        }
        if when.is_empty() {
            return Err("no condition says when".to_owned());
        }
        Ok(Self { hook, stages, when })
    }
}

fn patterns(texts: &[String]) -> Result<Vec<Regex>, String> {
    texts.iter().map(|text| pattern(text)).collect()
}

fn pattern(text: &str) -> Result<Regex, String> {
    Regex::new(text).map_err(|wrong| format!("invalid pattern {text:?}: {wrong}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(when: &str, stages: &str) -> Result<HookFile, String> {
        let text = format!(
            r#"{{"version": "1.0.0", "hook": {{"path": "/h", "args": ["h", "x"], "env": ["A=b"], "timeout": 2}},
                "when": {when}, "stages": {stages}}}"#
        );
        HookFile::parse(text.as_bytes())
    }

    fn applied(file: &HookFile, command: &str, pairs: &[(&str, &str)], binds: bool) -> bool {
        let pairs = pairs.iter();
        let annotations = pairs.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let subject = Subject {
            annotations: &annotations.collect(),
            command,
            has_bind_mounts: binds,
        };
        file.apply(subject, &mut oci::Spec::default())
    }

    #[test]
    fn all_conditions_of_a_hook_have_to_hold() {
        let kept = [("com.example/a", "fluid"), ("other", "x")];
        for (when, command, annotations, binds, wanted) in [
            (r#"{"always": true}"#, "/bin/sh", &[][..], false, true),
            (r#"{"always": false}"#, "/bin/sh", &[], false, false),
            (r#"{"commands": ["^/bin/.*"]}"#, "/bin/sh", &[], false, true),
            (
                r#"{"commands": ["init$", "sh$"]}"#,
                "/bin/sh",
                &[],
                false,
                true,
            ),
            (r#"{"commands": ["init$"]}"#, "/bin/sh", &[], false, false),
            (r#"{"hasBindMounts": true}"#, "", &[], true, true),
            (r#"{"hasBindMounts": true}"#, "", &[], false, false),
            (r#"{"hasBindMounts": false}"#, "", &[], false, false),
            (
                r#"{"annotations": {"^com\\.example/": "^fl"}}"#,
                "",
                &kept,
                false,
                true,
            ),
            (
                r#"{"annotations": {"^com\\.example/": "^x"}}"#,
                "",
                &kept,
                false,
                false,
            ),
            (
                r#"{"annotations": {"^com": "", "^no": ""}}"#,
                "",
                &kept,
                false,
                false,
            ),
            (
                r#"{"always": true, "commands": ["init$"]}"#,
                "/bin/sh",
                &[],
                false,
                false,
            ),
            (
                r#"{"hasBindMounts": true, "annotations": {"o": "x"}}"#,
                "",
                &kept,
                true,
                true,
            ),
        ] {
            let file = file(when, r#"["poststop"]"#).unwrap();
            let found = applied(&file, command, annotations, binds);
            assert_eq!(found, wanted, "{when} {command} {annotations:?} {binds}");
        }
    }

    #[test]
    fn of_the_old_schema_one_condition_is_enough() {
        let old = |text: &str| HookFile::parse(text.as_bytes());
        let hook = r#"{"hook": "/h", "arguments": ["x"], "stage": ["prestart"],
            "cmds": ["init$"], "annotations": ["a", "b"], "hasbindmounts": true}"#;
        let hook = old(hook).unwrap();
        assert!(applied(&hook, "/init", &[], false));
        assert!(applied(&hook, "/bin/sh", &[("any", "xbx")], false));
        assert!(applied(&hook, "/bin/sh", &[], true));
        assert!(!applied(&hook, "/bin/sh", &[("a", "c")], false));
        assert_eq!(hook.hook.args, ["/h", "x"]);
        assert!(
            old(r#"{"hook": "/h", "cmds": ["x"]}"#).is_err(),
            "no stages"
        );
        let both = r#"{"hook": "/h", "cmds": ["x"], "cmd": ["x"], "stages": ["prestart"]}"#;
        assert!(old(both).is_err(), "a name and its synonym");
    }

    #[test]
    fn a_hook_is_in_each_of_its_stages() {
        let stages = r#"["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"]"#;
        let file = file(r#"{"always": true}"#, stages).unwrap();
        let mut spec = oci::Spec::default();
        let subject = Subject {
            annotations: &BTreeMap::new(),
            command: "x",
            has_bind_mounts: false,
        };
        assert!(file.apply(subject, &mut spec));
        let hooks = spec.hooks.unwrap();
        let hook = oci::Hook {
            path: "/h".into(),
            args: vec!["h".into(), "x".into()],
            env: vec!["A=b".into()],
            timeout: Some(2),
        };
        assert_eq!(hooks.prestart, []);
        assert_eq!(hooks.create_runtime, [hook.clone(), hook.clone()]);
        for stage in [
            hooks.create_container,
            hooks.start_container,
            hooks.poststart,
            hooks.poststop,
        ] {
            assert_eq!(stage, std::slice::from_ref(&hook));
        }
    }

    #[test]
    fn a_file_that_is_not_in_the_schema_is_refused() {
        assert!(file(r#"{"always": true}"#, r#"["never"]"#).is_err());
        assert!(file(r#"{"always": true}"#, "[]").is_err());
        assert!(file("{}", r#"["poststop"]"#).is_err());
        assert!(file(r#"{"alwyas": true}"#, r#"["poststop"]"#).is_err());
        assert!(file(r#"{"commands": ["("]}"#, r#"["poststop"]"#).is_err());
        assert!(file(r#"{"annotations": {"(": "x"}}"#, r#"["poststop"]"#).is_err());
        for text in [
            "",
            "{}",
            r#"{"version": "2.0.0"}"#,
            r#"{"version": "1.0.0", "when": {"always": true}, "stages": ["poststop"]}"#,
            r#"{"version": "1.0.0", "hook": {"path": "h"}, "when": {"always": true}, "stages": ["poststop"]}"#,
            r#"{"version": "1.0.0", "hook": {"path": "/h", "timeout": 0}, "when": {"always": true}, "stages": ["poststop"]}"#,
            r#"{"version": "1.0.0", "hook": {"path": "/h", "env": ["x"]}, "when": {"always": true}, "stages": ["poststop"]}"#,
            r#"{"version": "1.0.0", "hook": {"path": "/h"}, "when": {"always": true}, "stage": ["poststop"]}"#,
        ] {
            assert!(HookFile::parse(text.as_bytes()).is_err(), "{text}");
        }
        let long = vec![b' '; limits::HOOK_FILE_BYTES + 1];
        assert!(HookFile::parse(&long).unwrap_err().contains("larger"));
    }
}
