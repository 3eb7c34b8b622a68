//! `[crio.network]`: CNI.

use crate::row::{Effect, Kind, Reload, Row};

/// The table that these options stand in.
const TABLE: &str = "crio.network";

/// Every option of the table.
pub(crate) const ROWS: &[Row] = &[
    Row {
        table: TABLE,
        key: "cni_default_network",
        kind: Kind::Text,
        default: r#""""#,
        reload: Reload::Never,
        effect: Effect::Yes,
        flag: "cni-default-network",
        env: "CONTAINER_CNI_DEFAULT_NETWORK",
        help: r#"network name; "" = first config by file name"#,
    },
    Row {
        table: TABLE,
        key: "network_dir",
        kind: Kind::Text,
        default: r#""/etc/cni/net.d/""#,
        reload: Reload::Watched,
        effect: Effect::Yes,
        flag: "cni-config-dir",
        env: "CONTAINER_CNI_CONFIG_DIR",
        help: "CNI config dir, created if missing",
    },
    Row {
        table: TABLE,
        key: "plugin_dirs",
        kind: Kind::List,
        default: r#"["/opt/cni/bin/"]"#,
        reload: Reload::Never,
        effect: Effect::Yes,
        flag: "cni-plugin-dir",
        env: "CONTAINER_CNI_PLUGIN_DIR",
        help: "plugin binary dirs, created if missing",
    },
    Row {
        table: TABLE,
        key: "plugin_dir",
        kind: Kind::Text,
        default: r#""""#,
        reload: Reload::Never,
        effect: Effect::Yes,
        flag: "",
        env: "",
        help: "deprecated single dir, appended to plugin_dirs",
    },
    Row {
        table: TABLE,
        key: "cni_status_grace_period",
        kind: Kind::Duration,
        default: r#""0s""#,
        reload: Reload::Never,
        effect: Effect::NotYet,
        flag: "cni-status-grace-period",
        env: "CNI_STATUS_GRACE_PERIOD",
        help: "STATUS polling every 5 s; not-ready only after grace; <0 refused",
    },
];
