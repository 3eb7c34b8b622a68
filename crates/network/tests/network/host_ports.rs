//! Packets of every protocol and family through the rules of host ports, by each backend: a client,
//! a node and a pod, each in a namespace of its own.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::time::Duration;

use crioxide_network::{Backend, Forwarded, HostPorts, PortMapping, Protocol};
use sys::namespace::{self, Kind};

use crate::sctp;
use crate::support::{Netns, Node};

/// How long an answer may take; a rule is there or is not.
const ANSWER: Duration = Duration::from_secs(2);
/// Addresses of the node towards the client.
const NODE: [&str; 2] = ["198.18.0.1", "fd01::1"];
/// Ports of the node and of the pod.
const PORTS: [(u16, u16, Protocol); 3] = [
    (8080, 80, Protocol::Tcp),
    (8081, 81, Protocol::Udp),
    (8082, 82, Protocol::Sctp),
];

/// A client and a pod, both joined to a node.
struct Net {
    client: Netns,
    node: Netns,
    pod: Netns,
    own: Node,
}

impl Net {
    fn new() -> Self {
        let own = Node::new();
        let [client, node, pod] = ["client", "node", "pod"].map(|name| Netns::new(&own, name));
        for netns in [&client, &node, &pod] {
            // Else link-local addresses can't be used for two seconds, nor neighbours be found.
            switch(netns, "ipv6/conf/default/accept_dad", "0");
        }
        for (end, netns, prefix4, prefix6) in [
            ("c", &client, "198.18.0", "fd01:"),
            ("p", &pod, "10.9.0", "fd02:"),
        ] {
            // `ip` knows namespaces by name or by process: the link is made there and moved here.
            netns.ip(&["link", "add", "eth0", "type", "veth", "peer", "name", end]);
            move_link(netns, end, &node);
            for (place, link, host) in [(&node, end, "1"), (netns, "eth0", "2")] {
                let address = format!("{prefix4}.{host}/24");
                place.ip(&["addr", "add", &address, "dev", link]);
                let address = format!("{prefix6}:{host}/64");
                place.ip(&["-6", "addr", "add", &address, "dev", link, "nodad"]);
                place.ip(&["link", "set", link, "up"]);
                place.ip(&["link", "set", "lo", "up"]);
            }
            netns.ip(&["route", "add", "default", "via", &format!("{prefix4}.1")]);
            netns.ip(&[
                "-6",
                "route",
                "add",
                "default",
                "via",
                &format!("{prefix6}:1"),
            ]);
        }
        let net = Self {
            client,
            node,
            pod,
            own,
        };
        switch(&net.node, "ipv4/ip_forward", "1");
        switch(&net.node, "ipv6/conf/all/forwarding", "1");
        net.serve();
        net
    }

    /// Answers at all ports of the pod, for as long as the test runs.
    fn serve(&self) {
        let (tcp, udp) = inside(&self.pod, || {
            (
                TcpListener::bind(("::", 80)).unwrap(),
                UdpSocket::bind(("::", 81)).unwrap(),
            )
        });
        std::thread::spawn(move || {
            for mut stream in tcp.incoming().flatten() {
                std::io::Write::write_all(&mut stream, b"pod").ok();
            }
        });
        std::thread::spawn(move || {
            let mut buffer = [0; 16];
            while let Ok((_, from)) = udp.recv_from(&mut buffer) {
                udp.send_to(b"pod", from).ok();
            }
        });
        for v6 in [false, true] {
            let socket = inside(&self.pod, || sctp::socket(v6));
            std::thread::spawn(move || sctp::answer(&socket, 82));
        }
    }

    /// Whether the pod answers somebody in `from` who asks at the node's `address`.
    fn answers(&self, from: &Netns, address: IpAddr, protocol: Protocol) -> bool {
        let port = PORTS.iter().find(|port| port.2 == protocol).unwrap().0;
        let to = SocketAddr::new(address, port);
        inside(from, || match protocol {
            Protocol::Tcp => tcp(to).is_some_and(|answer| answer == "pod"),
            Protocol::Udp => udp(to).is_some_and(|answer| answer == "pod"),
            Protocol::Sctp => sctp::ask(to, ANSWER),
        })
    }

    fn all_answer(&self, expected: bool, when: &str) {
        for (asking, from) in [("the client", &self.client), ("the node", &self.node)] {
            for address in NODE {
                for protocol in PORTS.map(|port| port.2) {
                    let answers = self.answers(from, address.parse().unwrap(), protocol);
                    assert_eq!(
                        answers, expected,
                        "{when}: {asking} asks {address} by {protocol:?}"
                    );
                }
            }
        }
    }

    fn ports(&self, backend: Backend) -> HostPorts {
        HostPorts::new(self.own.path("host-ports"), Some(backend))
    }
}

fn pod() -> Forwarded {
    let mapping = |(host_port, container_port, protocol)| PortMapping {
        host_port,
        container_port,
        protocol,
        host_ip: None,
    };
    Forwarded {
        pod_id: "p0d".to_owned(),
        name: "k8s_pod".to_owned(),
        ips: ["10.9.0.2", "fd02::2"].map(|ip| ip.parse().unwrap()).into(),
        mappings: PORTS.map(mapping).into(),
    }
}

fn inside<T: Send>(netns: &Netns, work: impl FnOnce() -> T + Send) -> T {
    let netns = namespace::open(&netns.path()).unwrap();
    namespace::within(netns.as_fd(), Kind::Net, work).unwrap()
}

fn switch(netns: &Netns, name: &str, value: &str) {
    let path = format!("/proc/sys/net/{name}");
    inside(netns, || std::fs::write(path, value).unwrap());
}

/// Gives a link of one namespace to another.
fn move_link(from: &Netns, link: &str, to: &Netns) {
    // A process inside is what `ip` can name.
    let mut holder = inside(to, || {
        let mut spec = sys::spawn::Spec::new(std::path::Path::new("/bin/sleep"));
        spec.args = vec!["60".into()];
        sys::spawn::spawn(&spec).unwrap()
    });
    let pid = holder.pid().as_raw_nonzero().to_string();
    from.ip(&["link", "set", link, "netns", &pid]);
    holder.kill_group();
    holder.signal(rustix::process::Signal::KILL).ok();
    holder.wait(Some(ANSWER)).unwrap();
}

fn tcp(to: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&to, ANSWER).ok()?;
    stream.set_read_timeout(Some(ANSWER)).unwrap();
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut stream, &mut answer).ok()?;
    Some(answer)
}

fn udp(to: SocketAddr) -> Option<String> {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).unwrap();
    socket.set_read_timeout(Some(ANSWER)).unwrap();
    socket.connect(to).ok()?;
    socket.send(b"?").ok()?;
    let mut buffer = [0; 16];
    let length = socket.recv(&mut buffer).ok()?;
    Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

#[test]
fn packets_of_every_protocol_and_family_reach_the_pod() {
    for backend in [Backend::Nftables, Backend::Iptables] {
        let net = Net::new();
        let ports = net.ports(backend);
        inside(&net.node, || ports.add(&pod()).unwrap());
        net.all_answer(true, &format!("{backend:?}"));
        inside(&net.node, || ports.remove("p0d").unwrap());
        let address = NODE[1].parse().unwrap();
        for protocol in PORTS.map(|port| port.2) {
            let answers = net.answers(&net.client, address, protocol);
            assert!(!answers, "{backend:?}: {protocol:?} after its end");
        }
    }
}

#[test]
fn another_backend_takes_the_rules_over() {
    let (nft, iptables) = (Backend::Nftables, Backend::Iptables);
    for (old, new) in [(nft, iptables), (iptables, nft)] {
        let net = Net::new();
        inside(&net.node, || net.ports(old).add(&pod()).unwrap());
        assert_ne!(rules(&net, old), 0, "{old:?}");
        let ports = net.ports(new);
        inside(&net.node, || ports.reconcile(&["p0d".to_owned()]).unwrap());
        assert_eq!(rules(&net, old), 0, "{old:?} after {new:?} took over");
        net.all_answer(true, &format!("{new:?} after {old:?}"));
        inside(&net.node, || ports.remove("p0d").unwrap());
        assert_eq!((rules(&net, old), rules(&net, new)), (0, 0));

        // A pod that went while there was no daemon leaves none of either.
        inside(&net.node, || net.ports(old).add(&pod()).unwrap());
        inside(&net.node, || net.ports(new).reconcile(&[]).unwrap());
        assert_eq!((rules(&net, old), rules(&net, new)), (0, 0));
    }
}

/// How many lines of the node's rules lead to the pod.
fn rules(net: &Net, backend: Backend) -> usize {
    let programs: &[(&str, &[&str])] = match backend {
        Backend::Nftables => &[
            ("/usr/sbin/nft", &["list", "table", "ip", "crio-hostports"]),
            ("/usr/sbin/nft", &["list", "table", "ip6", "crio-hostports"]),
        ],
        Backend::Iptables => &[
            ("/usr/sbin/iptables-save", &["-t", "nat"]),
            ("/usr/sbin/ip6tables-save", &["-t", "nat"]),
        ],
    };
    let lines = |(program, args): &(&str, &[&str])| {
        let output = inside(&net.node, || crate::support::tool(program, args));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let leads = |line: &&str| line.contains("10.9.0.2") || line.contains("fd02::2");
        text.lines().filter(leads).count()
    };
    programs.iter().map(lines).sum()
}
