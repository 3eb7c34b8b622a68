//! Host ports by nftables: a table per family with one map for all of the node's addresses, one
//! for single ones, and a set of the pods.
//!
//! The names are CRI-O's. Elements carry a mark of their pod as comment. What would fail for being
//! gone is added before it is deleted, in the same transaction.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::{Family, Rule, run};
use crate::error::Result;

const TABLE: &str = "crio-hostports";

/// Whether the program is there and the kernel takes such a table. Nothing is changed.
pub(super) fn works() -> bool {
    let text = table(Family::V4);
    run("nft", &["--check", "-f", "-"], text).is_ok()
}

/// Makes the table hold `wanted`, and nothing of `gone`.
pub(super) fn apply(family: Family, wanted: &[Rule], gone: &[Rule]) -> Result<()> {
    let text = table(family) + &elements(family, wanted, gone);
    let Err(error) = run("nft", &["-f", "-"], text) else {
        return Ok(());
    };
    // A table that was made otherwise, or an element in our way, of a pod that nobody has any more.
    tracing::warn!(%error, "the table of host ports is made anew");
    let word = word(family);
    let anew = format!("add table {word} {TABLE}\ndelete table {word} {TABLE}\n");
    let text = anew + &table(family) + &elements(family, wanted, &[]);
    run("nft", &["-f", "-"], text).map(drop)
}

fn word(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

/// The table with its chains. A NAT hook one later than usual: kube-proxy's services come first.
fn table(family: Family) -> String {
    let ip = word(family);
    let (address, foreign, loopback) = match family {
        Family::V4 => (
            "ipv4_addr",
            "iifname != \"lo\" ip daddr 127.0.0.0/8 drop",
            "127.0.0.0/8",
        ),
        Family::V6 => ("ipv6_addr", "", "::1"),
    };
    let mut text = format!("add table {ip} {TABLE}\n");
    let port = "inet_proto . inet_service";
    for (kind, name, of) in [
        (
            "map",
            "hostports",
            format!("{port} : {address} . inet_service"),
        ),
        (
            "map",
            "hostipports",
            format!("{address} . {port} : {address} . inet_service"),
        ),
        ("set", "hairpins", format!("{address} . {address}")),
    ] {
        line(
            &mut text,
            format_args!("add {kind} {ip} {TABLE} {name} {{ type {of}; }}"),
        );
    }
    let from_pod_to_itself = format!("{ip} saddr . {ip} daddr @hairpins masquerade");
    let from_loopback =
        format!("{ip} saddr {loopback} {ip} daddr . {ip} daddr @hairpins masquerade");
    let by_address = format!("{ip} daddr . meta l4proto . th dport map @hostipports");
    let local = match family {
        Family::V4 => "fib daddr type local goto hostports",
        Family::V6 => "ip6 daddr != ::1 fib daddr type local goto hostports",
    };
    let chains: [(&str, &str, Vec<String>); 5] = [
        (
            "hostports",
            "",
            vec![
                format!("dnat {ip} addr . port to {by_address}"),
                format!("dnat {ip} addr . port to meta l4proto . th dport map @hostports"),
            ],
        ),
        (
            "prerouting",
            "{ type nat hook prerouting priority -99; }",
            vec![local.to_owned()],
        ),
        (
            "output",
            "{ type nat hook output priority -99; }",
            vec![local.to_owned()],
        ),
        (
            "masquerading",
            "{ type nat hook postrouting priority 100; }",
            [from_pod_to_itself, from_loopback]
                .map(|rule| format!("ct status & (dnat | snat) == dnat {rule}"))
                .to_vec(),
        ),
        (
            "loopback",
            "{ type filter hook prerouting priority -300; }",
            vec![foreign.to_owned()],
        ),
    ];
    for (chain, hook, rules) in chains {
        line(
            &mut text,
            format_args!("add chain {ip} {TABLE} {chain} {hook}"),
        );
        line(&mut text, format_args!("flush chain {ip} {TABLE} {chain}"));
        for rule in rules.iter().filter(|rule| !rule.is_empty()) {
            line(
                &mut text,
                format_args!("add rule {ip} {TABLE} {chain} {rule}"),
            );
        }
    }
    text
}

fn elements(family: Family, wanted: &[Rule], gone: &[Rule]) -> String {
    let mut text = String::new();
    let ip = word(family);
    let mut element = |verb: &str, place: &str, what: String| {
        line(
            &mut text,
            format_args!("{verb} element {ip} {TABLE} {place} {{ {what} }}"),
        );
    };
    for rule in gone {
        let (map, key) = key(rule);
        element("add", map, format!("{key} : {}", value(rule)));
        element("delete", map, key);
        let pin = hairpin(rule.pod_ip);
        element("add", "hairpins", pin.clone());
        element("delete", "hairpins", pin);
    }
    for rule in wanted {
        let (map, key) = key(rule);
        let mark = &rule.mark;
        element(
            "add",
            map,
            format!("{key} comment \"{mark}\" : {}", value(rule)),
        );
        element(
            "add",
            "hairpins",
            format!("{} comment \"{mark}\"", hairpin(rule.pod_ip)),
        );
    }
    text
}

/// The map that a rule is in, and its key there.
fn key(rule: &Rule) -> (&'static str, String) {
    let port = format!("{} . {}", rule.protocol.word(), rule.host_port);
    match rule.host_ip {
        None => ("hostports", port),
        Some(address) => ("hostipports", format!("{address} . {port}")),
    }
}

fn value(rule: &Rule) -> String {
    format!("{} . {}", rule.pod_ip, rule.container_port)
}

fn hairpin(pod: IpAddr) -> String {
    format!("{pod} . {pod}")
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("a string takes everything");
}
