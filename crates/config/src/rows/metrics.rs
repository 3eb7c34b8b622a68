//! `[crio.metrics]`: the Prometheus endpoint.

use crate::row::{Effect, Kind, Reload, Row};

/// The table that these options stand in.
const TABLE: &str = "crio.metrics";

/// Every option of the table.
pub(crate) const ROWS: &[Row] = &[
    Row {
        table: TABLE,
        key: "enable_metrics",
        kind: Kind::Bool,
        default: "false",
        reload: Reload::Never,
        effect: Effect::Yes,
        flag: "enable-metrics",
        env: "CONTAINER_ENABLE_METRICS",
        help: "Prometheus endpoint /metrics",
    },
    Row {
        table: TABLE,
        key: "metrics_collectors",
        kind: Kind::List,
        default: "[]",
        reload: Reload::Never,
        effect: Effect::Yes,
        flag: "metrics-collectors",
        env: "CONTAINER_METRICS_COLLECTORS",
        help: "names with or without container_runtime_/crio_ prefix",
    },
    Row {
        table: TABLE,
        key: "metrics_host",
        kind: Kind::Text,
        default: r#""127.0.0.1""#,
        reload: Reload::Never,
        effect: Effect::Yes,
        flag: "metrics-host",
        env: "CONTAINER_METRICS_HOST",
        help: "bind host",
    },
    Row {
        table: TABLE,
        key: "metrics_port",
        kind: Kind::Integer,
        default: "9090",
        reload: Reload::Never,
        effect: Effect::Yes,
        flag: "metrics-port",
        env: "CONTAINER_METRICS_PORT",
        help: "bind port; invalid = start error",
    },
    Row {
        table: TABLE,
        key: "metrics_socket",
        kind: Kind::Text,
        default: r#""""#,
        reload: Reload::Never,
        effect: Effect::Yes,
        flag: "metrics-socket",
        env: "CONTAINER_METRICS_SOCKET",
        help: "additional unix socket",
    },
    Row {
        table: TABLE,
        key: "metrics_cert",
        kind: Kind::Text,
        default: r#""""#,
        reload: Reload::Watched,
        effect: Effect::Yes,
        flag: "metrics-cert",
        env: "CONTAINER_METRICS_CERT",
        help: "TLS; self-signed pair generated if the files are missing",
    },
    Row {
        table: TABLE,
        key: "metrics_key",
        kind: Kind::Text,
        default: r#""""#,
        reload: Reload::Watched,
        effect: Effect::Yes,
        flag: "metrics-key",
        env: "CONTAINER_METRICS_KEY",
        help: "TLS key",
    },
];
