//! The daemon's own metrics, as Prometheus scrapes them.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use cri::v1;
use sys::spawn::{Program, run};
use testkit::node::Options;
use testkit::requests::container;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::fixture;
use crate::restart::monitor;

pub(crate) async fn get(socket: &Path, path: &str) -> Result<String> {
    let mut stream = UnixStream::connect(socket).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// The value of a sample, by its name and labels as they are written.
pub(crate) fn sample(text: &str, name: &str) -> Option<f64> {
    let mut lines = text.lines();
    let line = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    line.trim().parse().ok()
}

/// The endpoint's socket in the directory of [`on_a_socket`].
const SOCKET: &str = "metrics.sock";

/// A node whose endpoint is on a socket in a directory of its own.
async fn on_a_socket() -> Result<(fixture::Fixture, tempfile::TempDir)> {
    let directory = tempfile::Builder::new()
        .prefix("crixm-")
        .tempdir_in("/var/tmp")?;
    let socket = directory.path().join(SOCKET);
    let config = format!(
        "[crio.metrics]\nenable_metrics = true\nmetrics_port = 0\nmetrics_socket = {socket:?}\n"
    );
    let options = Options {
        config,
        ..Options::default()
    };
    Ok((fixture::with(options).await?, directory))
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_pulls_and_ends_are_counted() -> Result<()> {
    let (f, directory) = on_a_socket().await?;
    let socket = directory.path().join(SOCKET);
    let sandbox = f.node.run_pod("m").await?;
    let hungry = ["dd", "if=/dev/zero", "of=/dev/null", "bs=200M"];
    let mut hungry = container("c", &f.image, &hungry);
    hungry.linux.as_mut().unwrap().resources = Some(v1::LinuxContainerResources {
        memory_limit_in_bytes: 32 << 20,
        ..Default::default()
    });
    let id = f.node.run(&sandbox, hungry).await?;
    f.node.exited(&id).await?;
    assert!(f.node.status("0000").await.is_err());
    f.node.pull(&f.image).await?;
    assert!(f.node.pull("127.0.0.1:1/none/none:latest").await.is_err());

    let text = get(&socket, "/metrics").await?;
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    let prefix = "container_runtime_crio_";
    let runtime = format!("default_runtime{{runtime=\"{}\"}}", f.node.runtime());
    for (name, wanted) in [
        (r#"operations_total{operation="RunPodSandbox"}"#, 1.0),
        (r#"operations_errors_total{operation="RunPodSandbox"}"#, 0.0),
        (
            r#"operations_errors_total{operation="ContainerStatus"}"#,
            1.0,
        ),
        (
            r#"operations_latency_seconds_total_count{operation="CreateContainer"}"#,
            1.0,
        ),
        ("image_pulls_success_total", 2.0),
        ("image_pulls_layer_size_count", 1.0),
        (r#"image_pulls_layer_size_bucket{le="1e+07"}"#, 1.0),
        ("containers_oom_total", 1.0),
        (
            r#"containers_oom_count_total{name="k8s_c_m_default_uid-m_0"}"#,
            1.0,
        ),
        (&runtime, 1.0),
    ] {
        let name = format!("{prefix}{name}");
        assert_eq!(sample(&text, &name), Some(wanted), "{name}\n{text}");
    }
    let fetched = text.lines().find(|line| {
        line.starts_with(&format!(
            "{prefix}image_pulls_bytes_total{{mediatype=\"application/"
        ))
    });
    let reused = format!(
        "{prefix}image_layer_reuse_total{{name=\"{}@sha256:",
        f.image
    );
    let reused = text.lines().find(|line| line.starts_with(&reused));
    assert!(reused.is_some_and(|line| line.ends_with(" 1")), "{text}");
    assert!(
        text.contains("image_pulls_skipped_bytes_total{size=\">"),
        "{text}"
    );
    let bytes = fetched.and_then(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
    assert!(bytes.is_some_and(|bytes| bytes > 1e5), "{text}");
    let failed = format!("{prefix}image_pulls_failure_total{{error=");
    assert!(text.contains(&failed), "{text}");
    let latency = r#"operations_latency_seconds_total{operation="CreateContainer",quantile="0.5"}"#;
    let latency = sample(&text, &format!("{prefix}{latency}")).context("a quantile")?;
    assert!(latency > 0.0);
    for name in [
        "process_resident_memory_bytes",
        "process_open_fds",
        "process_start_time_seconds",
        "process_cpu_seconds_total",
        "promhttp_metric_handler_requests_in_flight",
    ] {
        assert!(
            sample(&text, name).is_some_and(|value| value > 0.0),
            "{name}\n{text}"
        );
    }
    let zipped = format!(
        "curl -sS --compressed --unix-socket {} -D - http://node/metrics",
        socket.display()
    );
    let zipped = shell(&zipped)?;
    assert!(zipped.contains("content-encoding: gzip"), "{zipped}");
    let calls = r#"container_runtime_crio_operations_total{operation="RunPodSandbox"}"#;
    assert_eq!(sample(&zipped, calls), Some(1.0), "{zipped}");
    let again = get(&socket, "/metrics").await?;
    let done = r#"promhttp_metric_handler_requests_total{code="200"}"#;
    assert_eq!(sample(&again, done), Some(2.0));
    assert!(get(&socket, "/").await?.starts_with("HTTP/1.1 404"));

    // The series of a container goes with it.
    f.node.remove_pod(&sandbox).await?;
    let text = get(&socket, "/metrics").await?;
    assert!(!text.contains("k8s_c_m_default"), "{text}");
    assert_eq!(
        sample(&text, &format!("{prefix}containers_oom_total")),
        Some(1.0)
    );
    f.node.finish().await?;
    assert!(!socket.try_exists()?, "the socket ends with the daemon");
    Ok(())
}

fn shell(script: &str) -> Result<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let program = Program::new("/bin/sh", Duration::from_secs(30)).env("PATH", path);
    let output = run(&program.args(["-c", script])).map_err(|error| anyhow::anyhow!("{error}"))?;
    let words = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{script}: {words}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn openssl(dir: &Path, arguments: &str, stdin: &str) -> Result<String> {
    let program = Program {
        cwd: Some(dir.to_owned()),
        ..Program::new("/usr/bin/openssl", Duration::from_secs(30))
    };
    let program = program.args(arguments.split(' ')).stdin(stdin);
    let output = run(&program).map_err(|error| anyhow::anyhow!("{error}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_certificate_the_address_speaks_tls() -> Result<()> {
    let directory = tempfile::Builder::new()
        .prefix("crixm-")
        .tempdir_in("/var/tmp")?;
    let dir = directory.path();
    let new = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key -out cert \
               -subj /CN=node -days 2";
    openssl(dir, new, "")?;
    let config = |certificate: &str| {
        format!(
            "[crio.metrics]\nenable_metrics = true\nmetrics_port = 0\n\
             metrics_cert = \"{dir}/{certificate}\"\nmetrics_key = \"{dir}/key\"\n",
            dir = dir.display()
        )
    };
    let options = Options {
        config: config("cert"),
        ..Options::default()
    };
    let f = fixture::without_image(options).await?;
    let log = f.node.log_tail();
    let told = log.lines().find(|line| line.contains("metrics are served"));
    let address = told.and_then(|line| line.split("address=").nth(1));
    let address = address.context("an address in the log")?.trim();
    // Standard input stays open for the answer's sake; the server closes.
    let client = format!("s_client -connect {address} -CAfile cert -quiet -ign_eof");
    let request = "GET /metrics HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n";
    let answer = openssl(dir, &client, request)?;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("process_open_fds"));
    let mut plain = tokio::net::TcpStream::connect(address).await?;
    plain.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    // An alert, or nothing; in no case figures.
    plain.read_to_end(&mut answer).await.ok();
    assert!(!String::from_utf8_lossy(&answer).contains("HTTP"));
    f.node.finish().await?;

    // Of a pair, one without the other.
    let missing = Options {
        config: config("none"),
        ..Options::default()
    };
    let refused = fixture::without_image(missing)
        .await
        .map(|_| ())
        .unwrap_err();
    assert!(
        format!("{refused:#}").contains("metrics endpoint"),
        "{refused:#}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_pair_is_made() -> Result<()> {
    let directory = tempfile::Builder::new()
        .prefix("crixm-")
        .tempdir_in("/var/tmp")?;
    let pki = directory.path().join("pki");
    let config = format!(
        "[crio.metrics]\nenable_metrics = true\nmetrics_port = 0\n\
         metrics_cert = \"{dir}/cert\"\nmetrics_key = \"{dir}/key\"\n",
        dir = pki.display()
    );
    let mut f = fixture::without_image(Options {
        config,
        ..Options::default()
    })
    .await?;
    let made = std::fs::read(pki.join("cert"))?;
    // Go's and OpenSSL's clients know the server by this certificate and the node's name.
    let name = rustix::system::uname();
    let name = name.nodename().to_str()?;
    let log = f.node.log_tail();
    let told = log.lines().find(|line| line.contains("metrics are served"));
    let port = told.and_then(|line| line.rsplit(':').next());
    let port = port.context("a port in the log")?.trim();
    let fetch = format!(
        "curl -sS --cacert {}/cert --resolve {name}:{port}:127.0.0.1 https://{name}:{port}/metrics",
        pki.display()
    );
    let text = shell(&fetch)?;
    assert!(text.contains("process_open_fds"), "{text}");
    let words = format!("openssl x509 -in {}/cert -noout -text", pki.display());
    let words = shell(&words)?;
    for wanted in [
        format!("DNS:{name}"),
        "TLS Web Server Authentication".to_owned(),
        "ecdsa-with-SHA256".to_owned(),
    ] {
        assert!(words.contains(&wanted), "no {wanted} in {words}");
    }
    let key = std::fs::metadata(pki.join("key"))?;
    let mode = std::os::unix::fs::PermissionsExt::mode(&key.permissions());
    assert_eq!(mode & 0o777, 0o600);
    f.node.restart().await?;
    assert_eq!(std::fs::read(pki.join("cert"))?, made, "it stays");
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_monitor_is_counted() -> Result<()> {
    let (f, directory) = on_a_socket().await?;
    let socket = directory.path().join(SOCKET);
    let pod = f.node.run_pod("m").await?;
    let sleeper = container("c", &f.image, &["sleep", "1000"]);
    f.node.run(&pod, sleeper).await?;
    let name = "container_runtime_crio_containers_stopped_monitor_count\
                {name=\"k8s_c_m_default_uid-m_0\"}";
    assert_eq!(sample(&get(&socket, "/metrics").await?, name), None);
    let old = monitor(&f.node, &pod, None).await;
    rustix::process::kill_process(old, rustix::process::Signal::KILL)?;
    monitor(&f.node, &pod, Some(old)).await;
    assert_eq!(sample(&get(&socket, "/metrics").await?, name), Some(1.0));
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_for_again_while_it_is_made_is_counted_by_stage() -> Result<()> {
    let (f, directory) = on_a_socket().await?;
    let socket = directory.path().join(SOCKET);
    let calls = (0..20).map(|_| f.node.run_pod("again"));
    let made = futures_util::future::join_all(calls).await;
    let made: std::collections::BTreeSet<_> = made.into_iter().collect::<Result<_>>()?;
    assert_eq!(made.len(), 1);
    let text = get(&socket, "/metrics").await?;
    let prefix = "container_runtime_crio_";
    let dropped = format!("{prefix}containers_events_dropped_total");
    assert_eq!(sample(&text, &dropped), Some(0.0), "{text}");
    let stalled = format!("{prefix}resources_stalled_at_stage{{stage=\"sandbox ");
    let counts = text.lines().filter(|line| line.starts_with(&stalled));
    let counts = counts.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
    let counted: f64 = counts.sum();
    assert!((1.0..20.0).contains(&counted), "{counted}\n{text}");
    f.node.finish().await
}
