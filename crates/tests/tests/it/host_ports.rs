//! Ports of the node that lead to pods: by nftables and by iptables.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use cri::v1;
use testkit::node::{Node, Options};

use crate::fixture::{self, Fixture};

const TCP: i32 = v1::Protocol::Tcp as i32;
const UDP: i32 = v1::Protocol::Udp as i32;
/// How long an answer may take; a rule is there or is not.
const ANSWER: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn a_port_of_the_node_leads_to_its_pod_by_nftables() -> Result<()> {
    leads_to_its_pod("nftables").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_of_the_node_leads_to_its_pod_by_iptables() -> Result<()> {
    leads_to_its_pod("iptables").await
}

async fn leads_to_its_pod(backend: &str) -> Result<()> {
    let mut f = with_backend(backend).await?;
    let (tcp, udp) = (free_port()?, free_port()?);
    let pod = run_pod(
        &f.node,
        "one",
        &[(TCP, tcp, 8080, ""), (UDP, udp, 8081, "")],
    )
    .await?;
    let other = run_pod(&f.node, "two", &[]).await?;
    serve_tcp(&f.node, &pod, 8080, "one")?;
    serve_udp(&f.node, &pod, 8081, "one")?;
    serve_tcp(&f.node, &other, tcp, "two")?;
    let (ip, other_ip) = (
        address(&f.node, &pod).await?,
        address(&f.node, &other).await?,
    );
    let gateway = gateway_of(ip)?;
    let loopback = Ipv4Addr::LOCALHOST.into();
    for node in [loopback, gateway] {
        assert_eq!(ask_tcp(node, tcp)?, "one", "at {node} by {backend}");
        assert_eq!(ask_udp(node, udp)?, "one", "at {node} by {backend}");
    }
    assert_eq!(
        ask_tcp(other_ip, tcp)?,
        "two",
        "another's port is another's"
    );
    let (from_other, from_itself) = (
        in_network(&f.node, &other, move || ask_tcp(gateway, tcp))?,
        in_network(&f.node, &pod, move || ask_tcp(gateway, tcp))?,
    );
    // Within one bridge an answer only comes back where the bridge calls netfilter.
    if netfilter_of_bridges() {
        assert_eq!(from_other?, "one");
    }
    assert_eq!(from_itself?, "one", "a pod reaches itself by the node");

    flush(backend, tcp)?;
    ensure!(ask_tcp(loopback, tcp).is_err(), "the rule was flushed");
    f.node.restart().await?;
    let taken = run_pod(&f.node, "three", &[(TCP, tcp, 80, "")])
        .await
        .unwrap_err();
    let wanted = format!("host port {tcp}/tcp is taken by pod sandbox {pod}");
    ensure!(format!("{taken:#}").contains(&wanted), "{taken:#}");

    // That operation waited for the repairs of the start.
    assert_eq!(ask_tcp(loopback, tcp)?, "one", "back after a restart");
    assert_eq!(ask_udp(loopback, udp)?, "one");

    f.node.stop_pod(&pod).await?;
    ensure!(ask_tcp(loopback, tcp).is_err(), "gone with the pod");
    ensure!(ask_udp(loopback, udp).is_err(), "gone with the pod");
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_may_be_for_one_address_of_the_node() -> Result<()> {
    for backend in ["nftables", "iptables"] {
        let f = with_backend(backend).await?;
        let port = free_port()?;
        let mapped = [(TCP, port, 8080, "127.0.0.1"), (TCP, port, 8080, "fd00::1")];
        let pod = run_pod(&f.node, "one", &mapped).await?;
        serve_tcp(&f.node, &pod, 8080, "one")?;
        let gateway = gateway_of(address(&f.node, &pod).await?)?;
        assert_eq!(
            ask_tcp(Ipv4Addr::LOCALHOST.into(), port)?,
            "one",
            "{backend}"
        );
        ensure!(ask_tcp(gateway, port).is_err(), "{backend}");
        f.node.finish().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_host_port_mapping_there_are_no_rules() -> Result<()> {
    let options = Options {
        arguments: vec!["--disable-hostport-mapping".into()],
        ..Options::default()
    };
    let f = fixture::with(options).await?;
    let port = free_port()?;
    let pod = run_pod(&f.node, "one", &[(TCP, port, 8080, "")]).await?;
    serve_tcp(&f.node, &pod, 8080, "one")?;
    ensure!(ask_tcp(Ipv4Addr::LOCALHOST.into(), port).is_err());
    ensure!(!f.node.run_dir.join("crio/host-ports").try_exists()?);
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_dies_over_a_port_leaves_none() -> Result<()> {
    for point in [
        "host-ports.add.recorded",
        "host-ports.add.applied",
        "host-ports.remove.applied",
    ] {
        let mut f = fixture::with(Options {
            faults: format!("{point}=kill"),
            ..Options::default()
        })
        .await?;
        let port = free_port()?;
        let mapped = [(TCP, port, 8080, "")];
        let made = run_pod(&f.node, "one", &mapped).await;
        let died = match made {
            Ok(pod) => f.node.stop_pod(&pod).await,
            Err(error) => Err(error),
        };
        ensure!(died.is_err(), "{point} was not passed");
        f.node.daemon_died()?;
        f.node.set_faults("");
        f.node.start_daemon().await?;
        if point.contains("add") {
            let again = run_pod(&f.node, "again", &mapped).await;
            again.with_context(|| point.to_owned())?;
        }
        f.node.finish().await.with_context(|| point.to_owned())?;
    }
    Ok(())
}

async fn with_backend(backend: &str) -> Result<Fixture> {
    let options = Options {
        arguments: vec![format!("--host-ports={backend}")],
        ..Options::default()
    };
    fixture::with(options).await
}

/// A pod with these mappings: protocol, port of the node, port of the pod, address of the node.
async fn run_pod(node: &Node, name: &str, mappings: &[(i32, u16, u16, &str)]) -> Result<String> {
    let mut config = testkit::requests::pod(name, &node.logs());
    let mapping = |(protocol, host, pod, ip): &(i32, u16, u16, &str)| v1::PortMapping {
        protocol: *protocol,
        host_port: (*host).into(),
        container_port: (*pod).into(),
        host_ip: (*ip).to_owned(),
    };
    config.port_mappings = mappings.iter().map(mapping).collect();
    node.run_pod_config(config).await
}

async fn address(node: &Node, pod: &str) -> Result<IpAddr> {
    let request = v1::PodSandboxStatusRequest {
        pod_sandbox_id: pod.into(),
        verbose: false,
    };
    let status = node.client().runtime().pod_sandbox_status(request).await?;
    let network = status.into_inner().status.and_then(|status| status.network);
    Ok(network.context("a network")?.ip.parse()?)
}

/// The node's own address in the pod's network: the first one of its sixteen.
fn gateway_of(pod: IpAddr) -> Result<IpAddr> {
    let IpAddr::V4(pod) = pod else {
        anyhow::bail!("{pod} is of IPv6");
    };
    Ok(Ipv4Addr::from((u32::from(pod) & !15) + 1).into())
}

/// A port that nobody on the node listens at.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Runs `work` on a thread in a pod's network.
fn in_network<T: Send + 'static>(
    node: &Node,
    pod: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    let netns = std::fs::File::open(node.run_dir.join("ns/netns").join(pod))?;
    let enter = move || -> Result<T> {
        sys::namespace::enter(std::os::fd::AsFd::as_fd(&netns), sys::namespace::Kind::Net)?;
        Ok(work())
    };
    std::thread::spawn(enter)
        .join()
        .map_err(|_| anyhow::anyhow!("the thread panicked"))?
}

/// Answers everybody at a port of the pod; for as long as the test runs.
fn serve_tcp(node: &Node, pod: &str, port: u16, answer: &'static str) -> Result<()> {
    let listener = in_network(node, pod, move || TcpListener::bind(("0.0.0.0", port)))??;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = stream;
            stream.write_all(answer.as_bytes()).ok();
        }
    });
    Ok(())
}

fn serve_udp(node: &Node, pod: &str, port: u16, answer: &'static str) -> Result<()> {
    let socket = in_network(node, pod, move || UdpSocket::bind(("0.0.0.0", port)))??;
    std::thread::spawn(move || {
        let mut buffer = [0; 16];
        while let Ok((_, from)) = socket.recv_from(&mut buffer) {
            socket.send_to(answer.as_bytes(), from).ok();
        }
    });
    Ok(())
}

fn ask_tcp(node: IpAddr, port: u16) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(node, port), ANSWER)?;
    stream.set_read_timeout(Some(ANSWER))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn ask_udp(node: IpAddr, port: u16) -> Result<String> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect((node, port))?;
    let deadline = Instant::now() + ANSWER;
    let mut buffer = [0; 16];
    socket.set_read_timeout(Some(ANSWER))?;
    socket.send(b"?")?;
    let length = socket.recv(&mut buffer)?;
    ensure!(Instant::now() < deadline + ANSWER, "late");
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

fn netfilter_of_bridges() -> bool {
    std::fs::read("/proc/sys/net/bridge/bridge-nf-call-iptables")
        .is_ok_and(|text| text.starts_with(b"1"))
}

/// Takes the rule of a port away behind the daemon's back, and nothing of other tests'.
fn flush(backend: &str, port: u16) -> Result<()> {
    let script = match backend {
        "nftables" => {
            format!("nft delete element ip crio-hostports hostports '{{ tcp . {port} }}'")
        }
        _ => format!(
            "iptables-save -t nat | grep -e '^-A KUBE-HOSTPORTS .*--dport {port} ' \
             | sed 's/^-A/-D/' | xargs -L 1 iptables -w -t nat"
        ),
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let program = sys::spawn::Program::new("/bin/sh", Duration::from_secs(30)).env("PATH", path);
    let output = sys::spawn::run(&program.args(["-c", &script]))
        .map_err(|error| anyhow::anyhow!("{error}"))?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
