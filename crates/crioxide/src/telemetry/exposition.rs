//! Prometheus' text format, version 0.0.4.

use std::fmt::{Display, Write as _};

/// A text under construction.
#[derive(Debug, Default)]
pub(crate) struct Text(String);

/// Kinds of metrics.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    Histogram,
    Summary,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Summary => "summary",
        }
    }
}

impl Text {
    /// Begins a metric: its samples follow.
    pub(crate) fn metric(&mut self, name: &str, kind: Kind, help: &str) {
        let kind = kind.word();
        // Writing to a string can't fail.
        writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}").ok();
    }

    /// Adds a sample.
    pub(crate) fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        let mut before = '{';
        for (label, text) in labels {
            write!(self.0, "{before}{label}=\"{}\"", escaped(text)).ok();
            before = ',';
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        writeln!(self.0, " {value}").ok();
    }

    /// Adds a metric with one sample.
    pub(crate) fn single(&mut self, name: &str, kind: Kind, help: &str, value: impl Display) {
        self.metric(name, kind, help);
        self.sample(name, &[], value);
    }

    /// The text.
    pub(crate) fn finish(self) -> String {
        self.0
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_has_the_forms_that_scrapers_read() {
        let mut text = Text::default();
        text.single("a_total", Kind::Counter, "Some.", 7);
        text.metric("b", Kind::Gauge, "Others.");
        text.sample("b", &[("name", "x\"y\\\n"), ("n", "1")], 0.25);
        assert_eq!(
            text.finish(),
            "# HELP a_total Some.\n# TYPE a_total counter\na_total 7\n\
             # HELP b Others.\n# TYPE b gauge\nb{name=\"x\\\"y\\\\\\n\",n=\"1\"} 0.25\n"
        );
    }
}
