//! A real kubelet on a node of our own: a static pod with an init container, probes, a preStop hook
//! and limits becomes Ready, another has users of its own; it is looked at and talked to through the kubelet's API, survives the death
//! of the daemon and of the kubelet, and ends when its manifest goes.
#![allow(clippy::print_stdout, reason = "it tells its user what it sees")]

mod talk;
mod users;

use std::fs;
use std::net::TcpListener;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use sys::spawn::{Child, Program, Session, Spec, run, spawn};

use crate::image_maker::ImageMaker;
use crate::node::{Node, Options};
use crate::registry::Registry;
use crate::streams::Trust;

/// Where cAdvisor, inside the kubelet, looks for the runtime: nothing can tell it another place.
const CADVISOR_SOCKET: &str = "/var/run/crio/crio.sock";
const NAME: &str = "node1";
/// The static pod as the kubelet calls it.
const POD: &str = "smoke-node1";
/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs the kubelet at `program` through all of it.
///
/// # Errors
/// What was not seen, with the ends of both logs.
pub async fn smoke(program: &Path) -> Result<()> {
    let scratch = tempfile::Builder::new()
        .prefix("crixk-")
        .tempdir_in("/var/tmp")?;
    let registry = Registry::start(&scratch.path().join("registry"))?;
    registry.push("smoke/busybox", "1", &ImageMaker::busybox().build())?;
    let node = Node::start(Options {
        insecure: vec![registry.addr().to_string()],
        ..Options::default()
    })
    .await?;
    // An answer comes after the repairs of the start, which free what nobody owns: a new cgroup too.
    node.remove_pod("none").await?;
    let socket = CadvisorSocket::link(&node.socket())?;
    let mut kubelet = Kubelet::new(program, scratch.path(), &node)?;
    kubelet.start()?;
    let image = registry.reference("smoke/busybox", "1");
    let mut node = node;
    let seen = walk(&mut kubelet, &mut node, &image).await;
    let seen = seen.with_context(|| format!("{}\n{}", kubelet.log_tail(), node.log_tail()));
    kubelet.kill();
    kubelet.clean();
    drop(socket);
    let removed = remove_all(&node).await;
    // The kubelet's own, which it leaves for its next start.
    sys::cgroup::Cgroup::at(&format!("{}/kubepods", node.cgroup()))?
        .remove()
        .ok();
    let left = node.finish().await;
    seen.and(removed).and(left)
}

async fn walk(kubelet: &mut Kubelet, node: &mut Node, image: &str) -> Result<()> {
    let now = Instant::now();
    let marks = kubelet.dir.join("marks");
    fs::create_dir_all(&marks)?;
    kubelet.manifest(image, &marks)?;
    let pod = kubelet.ready().await?;
    say("the static pod is Ready", now);
    let id = container_id(&pod)?;
    ensure!(marks.join("init").is_file(), "the init container ran first");

    let now = Instant::now();
    let log = kubelet.get(&format!("containerLogs/default/{POD}/main"))?;
    ensure!(log.contains("hello from main"), "its log: {log:?}");
    let ran = kubelet.post(&format!("run/default/{POD}/main?cmd=cat%20/etc/hostname"))?;
    ensure!(ran.trim() == POD, "a command's output: {ran:?}");
    say("its log and a command, through the kubelet's API", now);
    talk::streams(kubelet).await?;
    users::own(kubelet, node, image).await?;

    let now = Instant::now();
    let want = "container=\"main\",id=\"";
    kubelet
        .until("cAdvisor's metrics of the container", |kubelet| {
            let metrics = kubelet.get("metrics/cadvisor")?;
            let mut lines = metrics.lines();
            Ok(lines.any(|line| {
                line.starts_with("container_memory_working_set_bytes")
                    && line.contains(want)
                    && line.contains(&id)
                    && line.contains(POD)
            }))
        })
        .await?;
    say("its container in /metrics/cadvisor", now);

    let now = Instant::now();
    node.restart().await?;
    let pod = kubelet.ready().await?;
    ensure!(container_id(&pod)? == id, "the daemon's death restarted it");
    say("the daemon's death: the same container, Ready", now);

    let now = Instant::now();
    kubelet.kill();
    kubelet.start()?;
    let pod = kubelet.ready().await?;
    ensure!(
        container_id(&pod)? == id,
        "the kubelet's death restarted it"
    );
    say("the kubelet's death: the same container, Ready", now);

    let now = Instant::now();
    fs::remove_file(kubelet.manifests().join("smoke.yaml"))?;
    kubelet
        .until("the pod to end", |kubelet| Ok(kubelet.pod(POD)?.is_none()))
        .await?;
    let ended = node.exited(&id).await?;
    ensure!(
        ended.exit_code == 0,
        "it ended by its stop signal: {ended:?}"
    );
    ensure!(marks.join("stopped").is_file(), "its preStop hook ran");
    let running = cri::v1::ContainerState::ContainerRunning;
    let request = cri::v1::ListContainersRequest::default();
    let left = node.client().runtime().list_containers(request).await?;
    let left = left.into_inner().containers;
    let left = left.iter().find(|one| one.state() == running);
    ensure!(left.is_none(), "a container runs: {left:?}");
    say("its manifest's removal: hook run, pod ended", now);
    Ok(())
}

fn say(what: &str, since: Instant) {
    println!("  {:<52} {:>7.1} s", what, since.elapsed().as_secs_f64());
}

/// Id of the main container, as the kubelet's status has it.
fn container_id(pod: &Value) -> Result<String> {
    let id = pod.pointer("/status/containerStatuses/0/containerID");
    let id = id.and_then(Value::as_str).context("no container status")?;
    Ok(id.rsplit('/').next().unwrap_or(id).to_owned())
}

/// What the kubelet left, which a node's clean end would miss.
async fn remove_all(node: &Node) -> Result<()> {
    let mut runtime = node.client().runtime();
    let request = cri::v1::ListPodSandboxRequest::default();
    let pods = runtime.list_pod_sandbox(request).await?.into_inner().items;
    for pod in pods {
        node.remove_pod(&pod.id).await?;
    }
    Ok(())
}

/// The runtime's usual socket, as a link to a node's; it goes when this is dropped.
struct CadvisorSocket;

impl CadvisorSocket {
    fn link(socket: &Path) -> Result<Self> {
        let link = Path::new(CADVISOR_SOCKET);
        if link.symlink_metadata().is_ok() {
            bail!("{CADVISOR_SOCKET} is there: a runtime is installed on this machine");
        }
        let dir = link.parent().context("it has a directory")?;
        fs::create_dir_all(dir)?;
        std::os::unix::fs::symlink(socket, link)?;
        Ok(Self)
    }
}

impl Drop for CadvisorSocket {
    fn drop(&mut self) {
        fs::remove_file(CADVISOR_SOCKET).ok();
        if let Some(dir) = Path::new(CADVISOR_SOCKET).parent() {
            fs::remove_dir(dir).ok();
        }
    }
}

/// A kubelet in standalone mode, with directories of its own.
struct Kubelet {
    program: PathBuf,
    dir: PathBuf,
    port: u16,
    process: Option<Child>,
    /// Whether `/var/log/containers`, whose place the kubelet does not let choose, was there.
    had_links: bool,
}

impl Kubelet {
    fn new(program: &Path, scratch: &Path, node: &Node) -> Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let dir = scratch.join("kubelet");
        let kubelet = Self {
            program: program.to_owned(),
            port,
            process: None,
            had_links: Path::new("/var/log/containers").is_dir(),
            dir,
        };
        fs::create_dir_all(kubelet.manifests())?;
        // The kubelet wants the root of its cgroups to be there.
        sys::cgroup::Cgroup::at(&node.cgroup())?.make()?;
        let config = format!(
            "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n\
             staticPodPath: {manifests}\naddress: 127.0.0.1\nport: {port}\nhealthzPort: 0\n\
             cgroupDriver: cgroupfs\ncgroupRoot: {cgroup}\nfailCgroupV1: false\n\
             enforceNodeAllocatable: []\nfailSwapOn: false\nmakeIPTablesUtilChains: false\n\
             containerRuntimeEndpoint: unix://{socket}\nimageServiceEndpoint: unix://{socket}\n\
             localStorageCapacityIsolation: false\noomScoreAdj: 0\nregisterNode: false\n\
             podLogsDir: {logs}\nauthentication:\n  anonymous:\n    enabled: true\n  webhook:\n    \
             enabled: false\nauthorization:\n  mode: AlwaysAllow\nevictionHard:\n  \
             memory.available: 1Mi\n  nodefs.available: 1Mi\n  imagefs.available: 1Mi\n",
            manifests = kubelet.manifests().display(),
            cgroup = node.cgroup(),
            socket = node.socket().display(),
            logs = kubelet.dir.join("pod-logs").display(),
        );
        fs::write(kubelet.dir.join("config.yaml"), config)?;
        Ok(kubelet)
    }

    fn manifests(&self) -> PathBuf {
        self.dir.join("manifests")
    }

    /// Writes the static pod; renamed into place, since the kubelet reads half a file as one.
    fn manifest(&self, image: &str, marks: &Path) -> Result<()> {
        let marks = marks.display();
        let text = format!(
            r#"apiVersion: v1
kind: Pod
metadata:
  name: smoke
  namespace: default
spec:
  terminationGracePeriodSeconds: 10
  initContainers:
  - name: init
    image: {image}
    command: [sh, -c, "touch /marks/init"]
    volumeMounts:
    - {{name: marks, mountPath: /marks}}
  containers:
  - name: main
    image: {image}
    command: [sh, -c, "echo hello from main; mkdir -p /srv; echo fine > /srv/index.html; trap 'exit 0' TERM; httpd -f -p 8080 -h /srv & wait"]
    resources:
      limits: {{cpu: 500m, memory: 64Mi}}
    readinessProbe:
      httpGet: {{port: 8080, path: /index.html}}
      periodSeconds: 1
    livenessProbe:
      exec: {{command: [cat, /srv/index.html]}}
      periodSeconds: 1
    lifecycle:
      preStop:
        exec: {{command: [sh, -c, "touch /marks/stopped"]}}
    volumeMounts:
    - {{name: marks, mountPath: /marks}}
  - name: talk
    image: {image}
    command: [sh, -c, "trap 'exit 0' TERM; exec 3<&0; cat <&3 & wait"]
    stdin: true
  volumes:
  - name: marks
    hostPath: {{path: {marks}}}
"#
        );
        let path = self.manifests().join("smoke.yaml");
        Ok(sys::durable::replace_volatile(
            &path,
            text.as_bytes(),
            0o644,
        )?)
    }

    fn start(&mut self) -> Result<()> {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.join("log"))?;
        let arg = |name: &str, value: &Path| format!("--{name}={}", value.display()).into();
        let mut spec = Spec::new(&self.program);
        spec.args = vec![
            arg("config", &self.dir.join("config.yaml")),
            arg("root-dir", &self.dir.join("root")),
            arg("cert-dir", &self.dir.join("pki")),
            format!("--hostname-override={NAME}").into(),
        ];
        spec.env = std::env::vars_os().collect();
        spec.session = Session::Group;
        spec.fds = vec![(log.as_fd(), 1), (log.as_fd(), 2)];
        self.process = Some(spawn(&spec).context("start the kubelet")?);
        Ok(())
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill_group();
            process.wait(Some(Duration::from_secs(10))).ok();
        }
    }

    /// Unmounts what a killed kubelet has mounted, and removes the links that it makes to logs.
    fn clean(&self) {
        for place in sys::mount::beneath(&self.dir).unwrap_or_default() {
            sys::mount::unmount_lazily(&place).ok();
        }
        let links = fs::read_dir("/var/log/containers").into_iter().flatten();
        for link in links.flatten() {
            let path = link.path();
            if fs::read_link(&path).is_ok_and(|target| target.starts_with(&self.dir)) {
                fs::remove_file(path).ok();
            }
        }
        if !self.had_links {
            fs::remove_dir("/var/log/containers").ok();
        }
    }

    /// Its own authority, by which its certificate is known.
    fn trust(&self) -> Result<Trust> {
        Trust::file(&self.dir.join("pki/kubelet.crt"), NAME)
    }

    /// A URL of its server.
    fn url(&self, path: &str) -> String {
        format!("https://127.0.0.1:{}/{path}", self.port)
    }

    fn get(&self, path: &str) -> Result<String> {
        self.curl(&[], path)
    }

    fn post(&self, path: &str) -> Result<String> {
        self.curl(&["-X", "POST"], path)
    }

    /// Its certificate is one that it made for itself.
    fn curl(&self, more: &[&str], path: &str) -> Result<String> {
        let url = self.url(path);
        let program = Program::new("/usr/bin/curl", Duration::from_secs(20))
            .args(["-sSkf", "--max-time", "15"])
            .args(more.iter().copied())
            .args([url.as_str()]);
        let output = run(&program).map_err(|error| anyhow::anyhow!("{path}: {error}"))?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn pod(&self, name: &str) -> Result<Option<Value>> {
        let pods: Value = serde_json::from_str(&self.get("pods")?)?;
        let items = pods["items"].as_array().cloned().unwrap_or_default();
        Ok(items
            .into_iter()
            .find(|pod| pod["metadata"]["name"] == name))
    }

    /// Waits until the pod is Ready.
    async fn ready(&self) -> Result<Value> {
        let mut ready = None;
        self.until("the pod to be Ready", |kubelet| {
            let Some(pod) = kubelet.pod(POD)? else {
                return Ok(false);
            };
            let conditions = pod["status"]["conditions"].as_array();
            let is_ready = conditions.is_some_and(|all| {
                all.iter()
                    .any(|one| one["type"] == "Ready" && one["status"] == "True")
            });
            ready = is_ready.then_some(pod);
            Ok(is_ready)
        })
        .await?;
        ready.context("it was there a moment ago")
    }

    /// Asks again and again: the kubelet tells nobody.
    async fn until(&self, what: &str, mut seen: impl FnMut(&Self) -> Result<bool>) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        let mut tick = tokio::time::interval(Duration::from_millis(200));
        loop {
            tick.tick().await;
            let last = seen(self);
            match last {
                Ok(true) => return Ok(()),
                _ if Instant::now() < end => {}
                Ok(false) => bail!("waited in vain for {what}"),
                Err(error) => return Err(error.context(format!("waiting for {what}"))),
            }
        }
    }

    fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        let from = lines.len().saturating_sub(40);
        format!("kubelet's log:\n{}", lines[from..].join("\n"))
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.kill();
    }
}
