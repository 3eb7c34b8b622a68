//! `[crio.tracing]`: OpenTelemetry.

use crate::row::{Effect, Kind, Reload, Row};

/// The table that these options stand in.
const TABLE: &str = "crio.tracing";

/// Every option of the table.
pub(crate) const ROWS: &[Row] = &[
    Row {
        table: TABLE,
        key: "enable_tracing",
        kind: Kind::Bool,
        default: "false",
        reload: Reload::Never,
        effect: Effect::NotYet,
        flag: "enable-tracing",
        env: "CONTAINER_ENABLE_TRACING",
        help: "OTLP gRPC traces; also for NRI ttrpc and conmon-rs",
    },
    Row {
        table: TABLE,
        key: "tracing_endpoint",
        kind: Kind::Text,
        default: r#""127.0.0.1:4317""#,
        reload: Reload::Never,
        effect: Effect::NotYet,
        flag: "tracing-endpoint",
        env: "CONTAINER_TRACING_ENDPOINT",
        help: "collector",
    },
    Row {
        table: TABLE,
        key: "tracing_sampling_rate_per_million",
        kind: Kind::Integer,
        default: "0",
        reload: Reload::Never,
        effect: Effect::NotYet,
        flag: "tracing-sampling-rate-per-million",
        env: "CONTAINER_TRACING_SAMPLING_RATE_PER_MILLION",
        help: "sampling; 1000000 = all; parent based",
    },
];
