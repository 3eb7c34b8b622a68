//! What a runtime says when it fails: JSON lines in its log, plain lines on its stderr. Both come
//! from a program of the node, with words of the image's in them: only shown, never acted upon.

/// The message of the last error in a log of JSON lines (runc's order of keys, or crun's).
pub(super) fn from_log(log: &str) -> Option<String> {
    let message = |line: &str| {
        let level = string_field(line, "level")?;
        let is_error = matches!(level.as_str(), "error" | "fatal" | "panic");
        is_error.then(|| string_field(line, "msg")).flatten()
    };
    log.lines()
        .rev()
        .find_map(message)
        .filter(|text| !text.is_empty())
}

/// The lines of a stderr, as one.
pub(super) fn from_stderr(stderr: &str) -> Option<String> {
    let lines: Vec<&str> = stderr
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    (!lines.is_empty()).then(|| lines.join("; "))
}

/// The string that is the value of a key of a flat JSON object.
fn string_field(line: &str, key: &str) -> Option<String> {
    let mut rest = line.trim().strip_prefix('{')?;
    loop {
        let (name, after) = string(rest.trim_start())?;
        let after = after.trim_start().strip_prefix(':')?.trim_start();
        if after.starts_with('"') {
            let (value, behind) = string(after)?;
            if name == key {
                return Some(value);
            }
            rest = behind.trim_start().strip_prefix(',')?;
        } else {
            // A number or a word.
            rest = after.split_once(',')?.1;
        }
    }
}

/// A JSON string at the start of a text, and what follows it.
fn string(text: &str) -> Option<(String, &str)> {
    let mut chars = text.strip_prefix('"')?.chars();
    let mut out = String::new();
    loop {
        match chars.next()? {
            '"' => return Some((out, chars.as_str())),
            '\\' => match chars.next()? {
                'n' => out.push('\n'),
                't' => out.push('\t'),
                'r' => out.push('\r'),
                'u' => {
                    let digits = chars.as_str().get(..4)?;
                    let code = u32::from_str_radix(digits, 16).ok()?;
                    out.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
                    chars = chars.as_str().get(4..)?.chars();
                }
                'b' | 'f' => out.push(' '),
                other => out.push(other),
            },
            other => out.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_of_a_log_is_found() {
        for (log, expected) in [
            ("", None),
            ("not json\n", None),
            (
                r#"{"level":"error","msg":"exec: \"x\": not found","time":"t"}"#,
                Some("exec: \"x\": not found"),
            ),
            (
                r#"{"msg": "a\u00e4\n", "level": "error", "time": "t"}"#,
                Some("aä\n"),
            ),
            (
                "{\"level\":\"error\",\"msg\":\"first\"}\n{\"level\":\"warning\",\"msg\":\"later\"}\n",
                Some("first"),
            ),
            (
                "{\"level\":\"error\",\"n\":1,\"msg\":\"one\"}\n{\"level\":\"error\",\"msg\":\"two\"}",
                Some("two"),
            ),
            (r#"{"level":"error","msg":"cut"#, None),
            (r#"{"level":"error","msg":"\u12"#, None),
        ] {
            assert_eq!(from_log(log).as_deref(), expected, "{log:?}");
        }
        assert_eq!(from_stderr(" a\n\n b \n").as_deref(), Some("a; b"));
        assert_eq!(from_stderr("\n"), None);
    }
}
