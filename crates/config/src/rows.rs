//! Every option of `crio.conf`, one row each, in CRI-O's tables.

mod api;
mod crio;
mod handlers;
mod image;
mod metrics;
mod network;
mod nri;
mod nri_validator;
mod runtime;
mod stats;
mod tracing;
mod workloads;

use crate::row::Row;

/// Table of a runtime handler's rows.
pub(crate) const HANDLERS: &str = "crio.runtime.runtimes.<name>";
/// Table of a workload's rows.
pub(crate) const WORKLOADS: &str = "crio.runtime.workloads.<name>";

/// All options, table by table.
pub fn all() -> impl Iterator<Item = &'static Row> {
    [
        crio::ROWS,
        api::ROWS,
        runtime::ROWS,
        handlers::ROWS,
        workloads::ROWS,
        image::ROWS,
        network::ROWS,
        metrics::ROWS,
        tracing::ROWS,
        stats::ROWS,
        nri::ROWS,
        nri_validator::ROWS,
    ]
    .into_iter()
    .flatten()
}

/// The row of `key` in `table`.
#[must_use]
pub fn find(table: &str, key: &str) -> Option<&'static Row> {
    all().find(|row| row.table == table && row.key == key)
}

/// Whether `table` holds options, or tables that do.
pub(crate) fn is_table(table: &str) -> bool {
    all().any(|row| {
        row.table == table
            || row
                .table
                .strip_prefix(table)
                .is_some_and(|rest| rest.starts_with('.'))
    })
}
