//! Host ports by iptables: two chains per port, one that redirects and one that masquerades, and
//! two that lead to them.
//!
//! The names are CRI-O's, so that either finds what the other made. What is there is read first;
//! what is missing, and the contents of our chains, go in by one `iptables-restore --noflush`, which
//! is one transaction.

use std::net::IpAddr;

use super::{Family, Rule, run, short_digest};
use crate::error::Result;
use crate::pod::Protocol;

const PORTS: &str = "KUBE-HOSTPORTS";
const MASQUERADE: &str = "CRIO-HOSTPORTS-MASQ";
/// `! -i lo`: what comes from outside with an address of loopback.
const FOREIGN_LOOPBACK: &str = "-A PREROUTING -d 127.0.0.0/8 ! -i lo -m comment --comment \"crio hostport: no loopback from outside\" -j DROP";

/// Makes the chains hold `wanted`, and nothing of `gone`.
pub(super) fn apply(family: Family, wanted: &[Rule], gone: &[Rule]) -> Result<()> {
    let (save, restore) = match family {
        Family::V4 => ("iptables-save", "iptables-restore"),
        Family::V6 => ("ip6tables-save", "ip6tables-restore"),
    };
    if family == Family::V4 && !wanted.is_empty() {
        let raw = run(save, &["-t", "raw"], String::new())?;
        if !has_line(&String::from_utf8_lossy(&raw), FOREIGN_LOOPBACK) {
            let text = format!("*raw\n{FOREIGN_LOOPBACK}\nCOMMIT\n");
            run(restore, &["-w", "--noflush"], text)?;
        }
    }
    let present = run(save, &["-t", "nat"], String::new())?;
    let text = changes(&String::from_utf8_lossy(&present), family, wanted, gone);
    run(restore, &["-w", "--noflush"], text).map(drop)
}

/// What has to be restored onto `present`, the text of `iptables-save -t nat`.
pub(super) fn changes(present: &str, family: Family, wanted: &[Rule], gone: &[Rule]) -> String {
    let (mut chains, mut rules) = (vec!["*nat".to_owned()], Vec::new());
    let has_chain = |name: &str| {
        let start = format!(":{name} ");
        present.lines().any(|line| line.starts_with(&start))
    };
    if !wanted.is_empty() {
        // A chain that is declared is emptied.
        for name in [PORTS, MASQUERADE] {
            if !has_chain(name) {
                chains.push(format!(":{name} - [0:0]"));
            }
        }
        let leading = entrances(family);
        let missing = leading.into_iter().filter(|line| !has_line(present, line));
        rules.extend(missing);
    }
    for rule in gone {
        for name in [port_chain(rule), masquerade_chain(rule)] {
            if !has_chain(&name) {
                continue;
            }
            let jump = format!("-j {name}");
            let jumps = present.lines().filter(|line| line.ends_with(&jump));
            rules.extend(jumps.map(|line| line.replacen("-A ", "-D ", 1)));
            rules.extend([format!("-F {name}"), format!("-X {name}")]);
        }
    }
    for rule in wanted {
        let (port, masquerade) = (port_chain(rule), masquerade_chain(rule));
        chains.extend([&port, &masquerade].map(|name| format!(":{name} - [0:0]")));
        let comment = comment(rule);
        let protocol = rule.protocol.word();
        let leads = |name: &str| {
            let jump = format!("-j {name}");
            present.lines().any(|line| line.ends_with(&jump))
        };
        if !leads(&port) {
            let matched = format!("-p {protocol} -m {protocol} --dport {}", rule.host_port);
            rules.push(format!("-I {PORTS} {comment} {matched} -j {port}"));
        }
        if !leads(&masquerade) {
            rules.push(format!("-I {MASQUERADE} {comment} -j {masquerade}"));
        }
        rules.extend(contents(rule, &port, &masquerade));
    }
    chains.append(&mut rules);
    chains.push("COMMIT\n".to_owned());
    chains.join("\n")
}

/// What leads to our chains: appended, so that kube-proxy's services come first.
fn entrances(family: Family) -> Vec<String> {
    let not_loopback = match family {
        Family::V4 => "",
        Family::V6 => "! -d ::1/128 ",
    };
    let local = "-m comment --comment \"kube hostport portals\" -m addrtype --dst-type LOCAL";
    vec![
        format!("-A OUTPUT {not_loopback}{local} -j {PORTS}"),
        format!("-A PREROUTING {not_loopback}{local} -j {PORTS}"),
        format!(
            "-A POSTROUTING -m comment --comment \"kube hostport masquerading\" -m conntrack --ctstate DNAT -j {MASQUERADE}"
        ),
    ]
}

/// The rules in the two chains of a port.
fn contents(rule: &Rule, port: &str, masquerade: &str) -> Vec<String> {
    let comment = comment(rule);
    let protocol = rule.protocol.word();
    let bound = rule
        .host_ip
        .map(|address| format!(" -d {address}"))
        .unwrap_or_default();
    let pod = rule.pod_ip;
    let to = match pod {
        IpAddr::V4(address) => format!("{address}:{}", rule.container_port),
        IpAddr::V6(address) => format!("[{address}]:{}", rule.container_port),
    };
    let mut sources = vec![pod.to_string()];
    if pod.is_ipv4() {
        sources.push("127.0.0.0/8".to_owned());
    }
    let matched = format!(
        "-m conntrack --ctorigdstport {} -p {protocol} -m {protocol} --dport {}",
        rule.host_port, rule.container_port
    );
    let masquerades = sources.into_iter().map(|source| {
        format!("-A {masquerade} {comment} {matched} -s {source} -d {pod} -j MASQUERADE")
    });
    let redirect = format!(
        "-A {port} {comment} -p {protocol}{bound} -m {protocol} -j DNAT --to-destination {to}"
    );
    std::iter::once(redirect).chain(masquerades).collect()
}

/// What a person sees. The name is Kubernetes' own, without anything to escape.
fn comment(rule: &Rule) -> String {
    let name: String = rule
        .name
        .chars()
        .filter(|c| *c != '"' && *c != '\\')
        .collect();
    format!(
        "-m comment --comment \"{name} hostport {}\"",
        rule.host_port
    )
}

fn port_chain(rule: &Rule) -> String {
    format!("KUBE-HP-{}", digest(rule))
}

fn masquerade_chain(rule: &Rule) -> String {
    format!("CRIO-MASQ-{}", digest(rule))
}

/// CRI-O's digest of a pod's port.
fn digest(rule: &Rule) -> String {
    let protocol = match rule.protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
        Protocol::Sctp => "SCTP",
    };
    let address = rule.host_ip.map(|ip| ip.to_string()).unwrap_or_default();
    let port = rule.host_port;
    short_digest(&format!("{}{port}{protocol}{address}", rule.pod_id))
}

fn has_line(text: &str, wanted: &str) -> bool {
    text.lines().any(|line| line == wanted)
}
