use super::*;

fn pod(id: &str, ips: &[&str], mappings: &[(u16, &str)]) -> Forwarded {
    Forwarded {
        pod_id: id.to_owned(),
        name: format!("name-{id}"),
        ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        mappings: mappings
            .iter()
            .map(|(host_port, host_ip)| PortMapping {
                host_port: *host_port,
                container_port: 80,
                protocol: Protocol::Tcp,
                host_ip: host_ip.parse().ok(),
            })
            .collect(),
    }
}

#[test]
fn the_first_address_of_each_family_gets_the_ports_that_are_for_it() {
    let ips = ["10.0.0.2", "10.0.0.3", "fd00::2", "fd00::3"];
    for (mapping, pods) in [
        ((80, ""), vec!["10.0.0.2", "fd00::2"]),
        ((0, ""), vec![]),
        ((80, "127.0.0.1"), vec!["10.0.0.2"]),
        ((80, "0.0.0.0"), vec!["10.0.0.2"]),
        ((80, "::"), vec!["fd00::2"]),
        ((80, "fd00::ff"), vec!["fd00::2"]),
    ] {
        let got: Vec<String> = rules(&pod("a", &ips, &[mapping]))
            .iter()
            .map(|rule| rule.pod_ip.to_string())
            .collect();
        assert_eq!(got, pods, "{mapping:?}");
    }
    assert!(
        rules(&pod("a", &ips, &[(80, "::")]))
            .iter()
            .all(|rule| rule.host_ip.is_none())
    );
}

#[test]
fn a_port_is_taken_by_another_pod_at_the_same_address_only() {
    let other = pod("other", &["10.0.0.2"], &[(80, ""), (81, "127.0.0.1")]);
    for (mappings, taken) in [
        (vec![(80, "")], true),
        (vec![(80, "0.0.0.0")], true),
        (vec![(80, "127.0.0.1")], false),
        (vec![(81, "127.0.0.1")], true),
        (vec![(81, "127.0.0.2")], false),
        (vec![(82, ""), (82, "")], true),
        (vec![(83, "")], false),
    ] {
        let rules = rules(&pod("new", &["10.0.0.9"], &mappings));
        let error = conflict(&rules, std::iter::once(&other));
        assert_eq!(error.is_some(), taken, "{mappings:?}");
    }
}

#[test]
fn marks_are_crios() {
    // The digest of nothing, of RFC 6234's first test vector and as coreutils' base32 writes them.
    for (text, mark) in [("", "4OYMIQUY7QOBJGX3"), ("abc", "XJ4BNP4PAHH6UQKB")] {
        assert_eq!(short_digest(text), mark, "{text:?}");
    }
}

#[test]
fn iptables_adds_what_is_missing_and_takes_away_what_is_there() {
    let here = rules(&pod("here", &["10.0.0.2"], &[(8080, "")]));
    let text = iptables::changes("*nat\nCOMMIT\n", Family::V4, &here, &[]);
    for wanted in [
        ":KUBE-HOSTPORTS - [0:0]",
        "-A PREROUTING -m comment --comment \"kube hostport portals\" -m addrtype --dst-type LOCAL -j KUBE-HOSTPORTS",
        "--to-destination 10.0.0.2:80",
        "-s 127.0.0.0/8 -d 10.0.0.2 -j MASQUERADE",
    ] {
        assert!(text.contains(wanted), "{wanted} is not in\n{text}");
    }
    // As iptables-save would tell it.
    let saved = text.replace("-I ", "-A ");
    let again = iptables::changes(&saved, Family::V4, &here, &[]);
    assert!(
        !again.contains("-I ") && !again.contains("-A OUTPUT"),
        "{again}"
    );
    assert!(
        !again.contains(":KUBE-HOSTPORTS"),
        "it would be emptied:\n{again}"
    );
    let gone = iptables::changes(&saved, Family::V4, &[], &here);
    let gone: Vec<_> = gone.lines().filter(|line| line.starts_with("-X")).collect();
    assert_eq!(gone.len(), 2);
    let nothing = iptables::changes("*nat\nCOMMIT\n", Family::V4, &[], &here);
    assert_eq!(nothing, "*nat\nCOMMIT\n");
}
