//! `[crio.nri]`: the Node Resource Interface.

use crate::row::{Effect, Kind, Reload, Row};

/// The table that these options stand in.
const TABLE: &str = "crio.nri";

/// Every option of the table.
pub(crate) const ROWS: &[Row] = &[
    Row {
        table: TABLE,
        key: "enable_nri",
        kind: Kind::Bool,
        default: "true",
        reload: Reload::Never,
        effect: Effect::NotYet,
        flag: "enable-nri",
        env: "",
        help: "NRI on",
    },
    Row {
        table: TABLE,
        key: "nri_listen",
        kind: Kind::Text,
        default: r#""/var/run/nri/nri.sock""#,
        reload: Reload::Never,
        effect: Effect::NotYet,
        flag: "nri-listen",
        env: "",
        help: "plugin socket",
    },
    Row {
        table: TABLE,
        key: "nri_plugin_dir",
        kind: Kind::Text,
        default: r#""/opt/nri/plugins""#,
        reload: Reload::Never,
        effect: Effect::NotYet,
        flag: "nri-plugin-dir",
        env: "",
        help: "pre-installed plugins started at boot, NN-name order",
    },
    Row {
        table: TABLE,
        key: "nri_plugin_config_dir",
        kind: Kind::Text,
        default: r#""/etc/nri/conf.d""#,
        reload: Reload::Never,
        effect: Effect::NotYet,
        flag: "nri-plugin-config-dir",
        env: "",
        help: "plugin config files",
    },
    Row {
        table: TABLE,
        key: "nri_disable_connections",
        kind: Kind::Bool,
        default: "false",
        reload: Reload::Never,
        effect: Effect::NotYet,
        flag: "nri-disable-connections",
        env: "",
        help: "no external plugins",
    },
    Row {
        table: TABLE,
        key: "nri_plugin_registration_timeout",
        kind: Kind::Duration,
        default: r#""5s""#,
        reload: Reload::Never,
        effect: Effect::NotYet,
        flag: "nri-plugin-registration-timeout",
        env: "",
        help: "registration limit",
    },
    Row {
        table: TABLE,
        key: "nri_plugin_request_timeout",
        kind: Kind::Duration,
        default: r#""2s""#,
        reload: Reload::Never,
        effect: Effect::NotYet,
        flag: "nri-plugin-request-timeout",
        env: "",
        help: "request limit; slow plugin is dropped",
    },
];
