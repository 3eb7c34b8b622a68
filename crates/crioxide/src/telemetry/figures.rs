//! All metrics, read when somebody scrapes.

use std::collections::BTreeMap;
use std::sync::Arc;

use image::{Images, LAYER_SIZES};
use pods::Pods;
use pods::state::container::Phase;
use tokio::sync::watch;

use super::calls::{Call, Calls};
use super::exposition::{Kind, Text};
use super::process::{self, Process};
use super::selection::Selection;

/// Quantiles that are told, as Prometheus and as per cent.
const QUANTILES: ([&str; 3], [usize; 3]) = (["0.5", "0.9", "0.99"], [50, 90, 99]);

/// Where the figures come from.
#[derive(Debug, Clone)]
pub(super) struct Sources {
    pub(super) calls: Arc<Calls>,
    pub(super) pods: Pods,
    pub(super) images: Arc<Images>,
    pub(super) selection: Selection,
    pub(super) default_runtime: watch::Receiver<Arc<str>>,
}

impl Sources {
    /// Reads all of them. Blocks.
    pub(super) fn read(&self) -> Text {
        let mut text = Text::default();
        self.calls(&mut text);
        self.layers(&mut text);
        self.containers(&mut text);
        self.monitors(&mut text);
        if let Some(name) = self.selection.name("processes_defunct") {
            let help = "Zombies on the node.";
            text.single(&name, Kind::Gauge, help, process::zombies());
        }
        if let Some(name) = self.selection.name("containers_events_dropped_total") {
            let help = "Events that a subscriber's queue had no room for.";
            text.single(&name, Kind::Counter, help, self.pods.dropped_events());
        }
        if let Some(name) = self.selection.name("resources_stalled_at_stage") {
            let help = "Pods and containers asked for again while being made, by stage.";
            text.metric(&name, Kind::Counter, help);
            for (stage, count) in self.pods.stalled() {
                text.sample(&name, &[("stage", &stage)], count);
            }
        }
        if let Some(name) = self.selection.name("default_runtime") {
            text.metric(&name, Kind::Gauge, "Always 1, for the default runtime.");
            text.sample(&name, &[("runtime", &**self.default_runtime.borrow())], 1);
        }
        own_process(&mut text);
        text
    }

    fn calls(&self, text: &mut Text) {
        let (calls, pulls) = self.calls.read();
        let mut each = |collector, kind, help, value: fn(&Call) -> f64| {
            if let Some(name) = self.selection.name(collector) {
                text.metric(&name, kind, help);
                for (call, known) in &calls {
                    text.sample(&name, &[("operation", call)], value(known));
                }
            }
        };
        each(
            "operations_total",
            Kind::Counter,
            "CRI calls that ended.",
            |call| number(call.count),
        );
        each(
            "operations_errors_total",
            Kind::Counter,
            "CRI calls that ended with an error.",
            |call| number(call.errors),
        );
        each(
            "operations_latency_seconds",
            Kind::Gauge,
            "Duration of the last call.",
            |call| call.last.as_secs_f64(),
        );
        if let Some(name) = self.selection.name("operations_latency_seconds_total") {
            latencies(text, &name, &calls);
        }
        if let Some(name) = self.selection.name("image_pulls_success_total") {
            text.single(
                &name,
                Kind::Counter,
                "Pulls that succeeded.",
                pulls.succeeded,
            );
        }
        if let Some(name) = self.selection.name("image_pulls_failure_total") {
            text.metric(&name, Kind::Counter, "Pulls that failed, by reason.");
            for (reason, count) in &pulls.failed {
                text.sample(&name, &[("error", reason)], count);
            }
        }
    }

    fn layers(&self, text: &mut Text) {
        let totals = self.images.totals();
        let counter = Kind::Counter;
        if let Some(name) = self.selection.name("image_pulls_layer_size") {
            text.metric(&name, Kind::Histogram, "Bytes of fetched layers' blobs.");
            let bucket = format!("{name}_bucket");
            for (bound, count) in LAYER_SIZES.iter().zip(totals.layer_sizes) {
                text.sample(&bucket, &[("le", &bound_label(*bound))], count);
            }
            text.sample(&bucket, &[("le", "+Inf")], totals.layers);
            text.sample(&format!("{name}_sum"), &[], totals.layer_bytes);
            text.sample(&format!("{name}_count"), &[], totals.layers);
        }
        if let Some(name) = self.selection.name("image_pulls_bytes_total") {
            let help = "Bytes fetched of layers, by media type and size of the blob.";
            text.metric(&name, counter, help);
            for ((media_type, size), bytes) in &totals.fetched {
                let labels = [("mediatype", media_type.as_str()), ("size", size)];
                text.sample(&name, &labels, bytes);
            }
        }
        if let Some(name) = self.selection.name("image_pulls_skipped_bytes_total") {
            let help = "Bytes of layers that were there already, by size of the blob.";
            text.metric(&name, counter, help);
            for (size, bytes) in &totals.skipped {
                text.sample(&name, &[("size", size)], bytes);
            }
        }
        if let Some(name) = self.selection.name("image_layer_reuse_total") {
            let help = "How often a layer was there already, by image and blob.";
            text.metric(&name, counter, help);
            for (blob, count) in &totals.reused {
                text.sample(&name, &[("name", blob)], count);
            }
        }
    }

    fn containers(&self, text: &mut Text) {
        if let Some(name) = self.selection.name("containers_oom_total") {
            let help = "Containers that ended for lack of memory, since the daemon's start.";
            text.single(&name, Kind::Counter, help, self.pods.oom_kills());
        }
        if let Some(name) = self.selection.name("containers_oom_count_total") {
            let help = "Ends for lack of memory of the containers that are there, by name.";
            text.metric(&name, Kind::Counter, help);
            for (container, count) in self.oom_by_name() {
                text.sample(&name, &[("name", &container)], count);
            }
        }
        if let Some(name) = self
            .selection
            .name("containers_seccomp_notifier_count_total")
        {
            let help =
                "Forbidden syscalls of the containers that are there, by container and syscall.";
            text.metric(&name, Kind::Counter, help);
            for ((container, syscall), count) in self.forbidden_syscalls() {
                let labels = [("name", container.as_str()), ("syscall", &syscall)];
                text.sample(&name, &labels, count);
            }
        }
    }

    fn forbidden_syscalls(&self) -> BTreeMap<(String, String), u64> {
        let snapshot = self.pods.snapshot();
        let mut counts = BTreeMap::new();
        for (container, of_container) in self.pods.forbidden_syscalls() {
            if let Some(pod) = snapshot.pods.get(&container.pod) {
                let name = container.request.record_name(&pod.request.key);
                for (syscall, count) in of_container {
                    *counts.entry((name.clone(), syscall)).or_default() += count;
                }
            }
        }
        counts
    }

    fn monitors(&self, text: &mut Text) {
        let Some(name) = self.selection.name("containers_stopped_monitor_count") else {
            return;
        };
        let help = "Losses of the monitor of the containers that are there, by name.";
        text.metric(&name, Kind::Counter, help);
        let snapshot = self.pods.snapshot();
        for (container, count) in self.pods.monitor_losses() {
            if let Some(pod) = snapshot.pods.get(&container.pod) {
                let container = container.request.record_name(&pod.request.key);
                text.sample(&name, &[("name", &container)], count);
            }
        }
    }

    fn oom_by_name(&self) -> BTreeMap<String, u64> {
        let snapshot = self.pods.snapshot();
        let mut counts = BTreeMap::new();
        for container in snapshot.containers.values() {
            let killed = matches!(&container.phase, Phase::Exited { exit, .. } if exit.oom_killed);
            if killed && let Some(pod) = snapshot.pods.get(&container.pod) {
                let name = container.request.record_name(&pod.request.key);
                *counts.entry(name).or_default() += 1;
            }
        }
        counts
    }
}

fn latencies(text: &mut Text, name: &str, calls: &BTreeMap<String, Call>) {
    text.metric(name, Kind::Summary, "Durations of CRI calls.");
    let (sum, count) = (format!("{name}_sum"), format!("{name}_count"));
    for (call, known) in calls {
        let quantiles = known.quantiles(QUANTILES.1);
        for (quantile, value) in QUANTILES.0.iter().zip(quantiles) {
            let labels = [("operation", call.as_str()), ("quantile", quantile)];
            text.sample(name, &labels, value.as_secs_f64());
        }
        let labels = [("operation", call.as_str())];
        text.sample(&sum, &labels, known.sum.as_secs_f64());
        text.sample(&count, &labels, known.count);
    }
}

fn own_process(text: &mut Text) {
    let Some(own) = Process::read() else { return };
    let (received, sent) = process::traffic();
    let (counter, gauge) = (Kind::Counter, Kind::Gauge);
    let limit = |name: &str| {
        // The Go client's number for "no limit".
        process::soft_limit(name).map_or_else(|| "1.8446744073709552e+19".into(), |n| n.to_string())
    };
    for (name, kind, help, value) in [
        (
            "process_cpu_seconds_total",
            counter,
            "Processor time of the daemon.",
            own.cpu.to_string(),
        ),
        (
            "process_max_fds",
            gauge,
            "Most descriptors that the daemon may have open.",
            limit("Max open files"),
        ),
        (
            "process_open_fds",
            gauge,
            "Descriptors that the daemon has open.",
            process::open_descriptors().to_string(),
        ),
        (
            "process_resident_memory_bytes",
            gauge,
            "Memory of the daemon.",
            own.resident_bytes.to_string(),
        ),
        (
            "process_start_time_seconds",
            gauge,
            "Unix time of the daemon's start.",
            own.start.to_string(),
        ),
        (
            "process_threads",
            gauge,
            "Threads of the daemon.",
            own.threads.to_string(),
        ),
        (
            "process_virtual_memory_bytes",
            gauge,
            "Address space of the daemon.",
            own.virtual_bytes.to_string(),
        ),
        (
            "process_virtual_memory_max_bytes",
            gauge,
            "Most address space that the daemon may have.",
            limit("Max address space"),
        ),
        (
            "process_network_receive_bytes_total",
            counter,
            "Bytes received in the daemon's network.",
            received.to_string(),
        ),
        (
            "process_network_transmit_bytes_total",
            counter,
            "Bytes sent in the daemon's network.",
            sent.to_string(),
        ),
    ] {
        text.single(name, kind, help, value);
    }
}

/// Adds what is known of the scrapes themselves.
pub(super) fn scrapes(text: &mut Text, in_flight: u64, done: u64) {
    let name = "promhttp_metric_handler_requests_in_flight";
    text.single(name, Kind::Gauge, "Scrapes under way.", in_flight);
    let name = "promhttp_metric_handler_requests_total";
    text.metric(name, Kind::Counter, "Scrapes by HTTP code.");
    text.sample(name, &[("code", "200")], done);
}

/// A bound as Go writes it, whose text is the series' name: from a million on with two digits of an
/// exponent.
fn bound_label(bytes: u64) -> String {
    if bytes < 1_000_000 {
        return bytes.to_string();
    }
    let text = format!("{:e}", number(bytes));
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    format!("{digits}e+{exponent:0>2}")
}

/// A count as Prometheus has all numbers.
#[expect(
    clippy::cast_precision_loss,
    reason = "exact to 2^53; Prometheus keeps no more"
)]
fn number(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_written_as_go_does() {
        let labels: Vec<_> = LAYER_SIZES
            .iter()
            .map(|&bytes| bound_label(bytes))
            .collect();
        assert_eq!(labels[..4], ["1000", "1e+06", "1e+07", "5e+07"]);
        assert_eq!(labels[10], "1e+10");
    }
}
