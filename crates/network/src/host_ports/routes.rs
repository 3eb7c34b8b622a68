//! The interface towards a pod, found in the kernel's routing table, and its `route_localnet`.

use std::net::{IpAddr, Ipv4Addr};

/// Lets packets that the node sends from 127.0.0.1 go to a pod, and the answers come back
/// (`ip-sysctl`, `route_localnet`). It stays on: it is a property of the interface, which other
/// pods may share, and it goes with it. Without it only 127.0.0.1 does not lead to the pod.
pub(super) fn let_loopback_through(pod: IpAddr) {
    let IpAddr::V4(pod) = pod else { return };
    let table = std::fs::read_to_string("/proc/thread-self/net/route").unwrap_or_default();
    let Some(interface) = towards(&table, pod) else {
        tracing::warn!(%pod, "no route to a pod: its host ports do not answer at 127.0.0.1");
        return;
    };
    let path = format!("/proc/sys/net/ipv4/conf/{interface}/route_localnet");
    let on = std::fs::read(&path).is_ok_and(|text| text.starts_with(b"1"));
    if !on && let Err(error) = std::fs::write(&path, "1") {
        tracing::warn!(path, %error, "host ports do not answer at 127.0.0.1");
    }
}

/// The interface of the longest prefix that holds the address. The columns are interface,
/// destination, gateway, flags, three counters, mask; the addresses are hexadecimal as they lie in
/// memory (`proc(5)`, `/proc/net/route`).
fn towards(table: &str, address: Ipv4Addr) -> Option<&str> {
    let address = u32::from_ne_bytes(address.octets());
    let routes = table.lines().skip(1).filter_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let number = |index: usize| u32::from_str_radix(columns.get(index)?, 16).ok();
        let (destination, mask) = (number(1)?, number(7)?);
        (address & mask == destination).then_some((mask.count_ones(), *columns.first()?))
    });
    routes
        .max_by_key(|(length, _)| *length)
        .map(|(_, interface)| interface)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn the_longest_prefix_tells_the_interface() {
        let table = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
            eth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
            cni0\t0000580A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
            cali1\t0500580A\t00000000\t0005\t0\t0\t0\tFFFFFFFF\t0\t0\t0\n";
        for (address, interface) in [
            ("10.88.0.5", "cali1"),
            ("10.88.0.6", "cni0"),
            ("8.8.8.8", "eth0"),
        ] {
            assert_eq!(
                towards(table, address.parse().unwrap()),
                Some(interface),
                "{address}"
            );
        }
        assert_eq!(towards("", Ipv4Addr::LOCALHOST), None);
    }
}
