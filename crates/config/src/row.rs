//! The shape of one option.

/// One option, once: file key, flag, environment, check and documentation come out of it.
#[derive(Debug)]
pub struct Row {
    /// Table in `crio.conf`; `<name>` stands for a handler's or workload's own name.
    pub table: &'static str,
    /// Key in that table.
    pub key: &'static str,
    /// Type of the value.
    pub kind: Kind,
    /// Default as TOML text; empty for tables.
    pub default: &'static str,
    /// When a change in a file takes effect.
    pub reload: Reload,
    /// Whether this version acts on it.
    pub effect: Effect,
    /// Command line flag without dashes; empty where there is none.
    pub flag: &'static str,
    /// Environment variable; empty where there is none.
    pub env: &'static str,
    /// What it does, in a line.
    pub help: &'static str,
}

/// Type of an option's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// TOML string.
    Text,
    /// TOML boolean.
    Bool,
    /// TOML integer, 64 bits.
    Integer,
    /// Array of strings.
    List,
    /// String such as `1h30m` or `500ms`; empty means none.
    Duration,
    /// Table of strings.
    Map,
    /// Tables with rows of their own: handlers and workloads.
    Table,
}

impl Kind {
    /// The kind's name in an operator's language, as error messages use it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "a string",
            Self::Bool => "true or false",
            Self::Integer => "an integer",
            Self::List => "an array of strings",
            Self::Duration => "a duration such as \"30s\"",
            Self::Map => "a table of strings",
            Self::Table => "a table",
        }
    }
}

/// When a changed value takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reload {
    /// At the next start.
    Never,
    /// On SIGHUP.
    Sighup,
    /// When the file or directory it names changes.
    Watched,
    /// The file it names is read each time it is needed.
    EachUse,
}

/// Whether this version acts on an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It does.
    Yes,
    /// Not built yet: said once in the log when somebody sets it.
    NotYet,
    /// Accepted for compatibility and never acted on, for this reason.
    No(&'static str),
}
