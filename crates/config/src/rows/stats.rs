//! `[crio.stats]`: collection of statistics.

use crate::row::{Effect, Kind, Reload, Row};

/// The table that these options stand in.
const TABLE: &str = "crio.stats";

/// Every option of the table.
pub(crate) const ROWS: &[Row] = &[
    Row {
        table: TABLE,
        key: "stats_collection_period",
        kind: Kind::Integer,
        default: "0",
        reload: Reload::Never,
        effect: Effect::Yes,
        flag: "stats-collection-period",
        env: "CONTAINER_STATS_COLLECTION_PERIOD",
        help: "deprecated; seconds, 0 = on demand",
    },
    Row {
        table: TABLE,
        key: "collection_period",
        kind: Kind::Integer,
        default: "0",
        reload: Reload::Never,
        effect: Effect::Yes,
        flag: "collection-period",
        env: "COLLECTION_PERIOD",
        help: "seconds for stats and pod metrics, 0 = on demand",
    },
    Row {
        table: TABLE,
        key: "included_pod_metrics",
        kind: Kind::List,
        default: "[]",
        reload: Reload::Never,
        effect: Effect::Yes,
        flag: "included-pod-metrics",
        env: "CONTAINER_INCLUDED_POD_METRICS",
        help: r#"cpu,disk,diskIO,hugetlb,memory,network,oom,process,spec,pressure or ["all"] alone"#,
    },
];
