//! From a request to a bundle: looks up what a spec depends on (the image's accounts, host paths
//! and devices, profiles) and puts the parts together.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::json;
use spec::annotations::{self, name};
use spec::container::{Namespace, Namespaces, Parts};
use spec::process::ImageDefaults;
use spec::{mounts, oci, seccomp};

use crate::image_volumes::Volume;
use crate::node::Node;
use crate::request::{PidMode, Profile, Shared};
use crate::rootfs::Rootfs;
use crate::state::container::{Made, Restored};
use crate::state::pod::Pod;
use crate::{
    ContainerId, ContainerRequest, Error, accounts, cdi, default_mounts, devices, files, id_mapped,
    image_volumes, own_volumes, selinux, timezone,
};

/// What a container is made from.
#[derive(Debug)]
pub(crate) struct Ingredients {
    pub(crate) id: ContainerId,
    pub(crate) pod: Arc<Pod>,
    pub(crate) request: ContainerRequest,
    pub(crate) image: ImageDefaults,
    pub(crate) image_id: String,
    pub(crate) image_ref: String,
    pub(crate) image_name: String,
    pub(crate) created: SystemTime,
    /// The mounted root.
    pub(crate) root: PathBuf,
    /// The bundle's directory.
    pub(crate) bundle: PathBuf,
    /// The images and artifacts that are mounted beside its own.
    pub(crate) image_volumes: Vec<Volume>,
    /// A seccomp profile that came as an artifact.
    pub(crate) seccomp: Option<Vec<u8>>,
    /// SELinux labels.
    pub(crate) selinux: spec::selinux::Labels,
    /// Path of the process namespace that is joined, where one is.
    pub(crate) pid_namespace: Namespace,
    pub(crate) log_path: String,
    /// What it is restored from, where it is.
    pub(crate) restored: Option<Restored>,
}

/// Looks everything up and builds the spec. Blocks.
pub(crate) fn build(node: &Node, from: &Ingredients) -> Result<(oci::Spec, Made), Error> {
    let (request, pod) = (&from.request, &from.pod);
    let handler = node.handlers.get(&pod.made.handler)?;
    let changing = node.changing.load_full();
    let rootfs = Rootfs::open(&from.root, pod.request.id_map)?;
    let user = rootfs.user(&request.user, &from.image.user)?;
    let capabilities = capabilities(node, request, user.uid == 0)?;
    let cwd = spec::process::working_dir(&from.image, &request.working_dir)?;
    rootfs.make_dir(&cwd, None)?;
    let env = environment(node, from)?;
    let mut own_files = pod_files(pod);
    own_files.extend(accounts::complete(&rootfs, from, &user, &env, &cwd)?);
    own_files.extend(timezone::set(
        &rootfs,
        from,
        node.options.timezone.as_deref(),
    )?);
    for (_, path) in own_files
        .iter()
        .filter(|(_, path)| path.starts_with(&from.bundle))
    {
        selinux::label(path, &from.selinux.mount)?;
    }
    let mut binds = Vec::with_capacity(request.mounts.len());
    let volumes = image_volumes::sources(&from.bundle, request, &from.image_volumes)?;
    let mut volumes = volumes.into_iter();
    for (number, mount) in request.mounts.iter().enumerate() {
        let whole = |source| vec![(mount.container_path.clone(), source)];
        if mount.image.is_none() && mount.selinux_relabel {
            let source = host_source(node, mount)?;
            let allowed = &handler.config.allowed_annotations;
            selinux::label_volume(&source, mount, request, pod, &from.selinux, allowed)?;
        }
        let shown = match (&mount.image, mount.id_map) {
            (Some(_), _) => volumes.next().unwrap_or_default(),
            (None, Some(_)) => whole(id_mapped::place(&from.bundle, number)),
            (None, None) => whole(host_source(node, mount)?),
        };
        let rro_supported = handler.features.recursive_readonly;
        for (destination, source) in shown {
            binds.push(bind(mount, destination, source, rro_supported)?);
        }
    }
    binds.extend(own_volumes::make(node, from, &rootfs, &user)?);
    binds.extend(default_mounts::make(node, from, &binds)?);
    let all_devices = request.privileged && !handler.config.privileged_without_host_devices;
    let devices = devices::resolve(&request.devices, all_devices)?;
    let read_only = request.readonly_rootfs || node.options.read_only && !request.privileged;
    let mount_request = mounts::Request {
        privileged: request.privileged,
        host_ipc: pod.request.ipc == Shared::Host,
        host_sysfs: pod.request.id_map.is_some() && pod.request.network == Shared::Host,
        readonly_root: read_only,
        tmpfs: node.options.read_only && !request.privileged,
        pod: own_files,
        binds: binds.clone(),
    };
    let made = Made {
        image_id: from.image_id.clone(),
        image_ref: from.image_ref.clone(),
        image_name: from.image_name.clone(),
        log_path: from.log_path.clone(),
        user: user.clone(),
        stop_signal: stop_signal(request, &from.image)?,
        cgroup: node
            .options
            .keeper
            .container(&pod.made.cgroup_parent, from.id.as_str()),
        terminal: request.tty,
        root: from.root.clone(),
        image_volumes: volume_ids(&from.image_volumes),
        restored: from.restored.clone(),
        selinux: from.selinux.clone(),
    };
    let process = oci::Process {
        terminal: request.tty,
        user,
        args: spec::process::arguments(&from.image, &request.command, &request.args)?,
        env,
        cwd,
        rlimits: node.options.ulimits.clone(),
        no_new_privileges: request.no_new_privs,
        apparmor_profile: changing.apparmor.profile_of(request)?,
        selinux_label: from.selinux.process.clone(),
        oom_score_adj: Some(node.host.oom_score(request.resources.oom_score_adj)),
        capabilities: Some(capabilities.sets),
        // A command's own, by the limits that are in force then.
        exec_cpu_affinity: None,
    };
    let surroundings = seccomp::Surroundings {
        bounding: capabilities.bounding,
        kernel: node.host.kernel,
    };
    let parts = Parts {
        oci_version: handler.features.oci_version.clone(),
        process,
        root: oci::Root {
            path: from.root.clone(),
            readonly: read_only,
        },
        hostname: if pod.made.utsns.is_some() {
            pod.made.hostname.clone()
        } else {
            String::new()
        },
        mounts: mounts::resolve(&mount_request)?,
        binds,
        namespaces: namespaces(node, pod, from.pid_namespace.clone()),
        id_maps: pod.request.id_map.map(id_maps),
        cgroups_path: node
            .options
            .keeper
            .for_runtime(&pod.made.cgroup_parent, from.id.as_str()),
        resources: spec::resources::resolve(
            &request.resources,
            node.host.controllers,
            handler.config.minimum_memory,
            node.options.pids_limit,
        )?,
        devices: devices.nodes,
        device_rules: devices.rules,
        privileged: request.privileged,
        mount_label: from.selinux.mount.clone(),
        seccomp: seccomp_filter(node, from, &handler.config.seccomp_profile, surroundings)?,
        masked_paths: request.masked_paths.clone(),
        readonly_paths: request.readonly_paths.clone(),
        annotations: container_annotations(from, &handler.config.allowed_annotations),
    };
    let mut spec = spec::container::build(parts);
    node.hooks.inject(pod, request, &mut spec);
    cdi::inject(&changing.cdi_spec_dirs, request, &mut spec)?;
    Ok((spec, made))
}

fn volume_ids(volumes: &[Volume]) -> Vec<String> {
    volumes.iter().map(|one| one.id().to_owned()).collect()
}

fn capabilities(
    node: &Node,
    request: &ContainerRequest,
    root: bool,
) -> Result<spec::capabilities::Sets, Error> {
    let policy = spec::capabilities::Policy {
        defaults: &node.options.default_capabilities,
        privileged: request.privileged,
        inheritable: node.options.inheritable_capabilities,
        root,
        grantable: node.host.grantable,
    };
    let sets = spec::capabilities::resolve(&request.capabilities, policy)?;
    if !sets.refused.is_empty() {
        node.host
            .warn_once("capabilities", &sets.refused.names().join(" "));
    }
    Ok(sets)
}

fn environment(node: &Node, from: &Ingredients) -> Result<Vec<String>, Error> {
    let mut own = vec![format!("HOSTNAME={}", from.pod.made.hostname)];
    if from.request.tty {
        own.push("TERM=xterm".to_owned());
    }
    Ok(spec::process::environment(
        &node.options.default_env,
        &from.image,
        &from.request.envs,
        &own,
    )?)
}

fn stop_signal(request: &ContainerRequest, image: &ImageDefaults) -> Result<i32, Error> {
    let text = if request.stop_signal.is_empty() {
        &image.stop_signal
    } else {
        &request.stop_signal
    };
    Ok(spec::process::stop_signal(text)?)
}

/// Files of the pod that its containers see.
fn pod_files(pod: &Pod) -> Vec<(&'static str, PathBuf)> {
    let dir = &pod.made.files;
    let shm = match pod.request.ipc {
        Shared::Pod => dir.join(files::SHM),
        Shared::Host => PathBuf::from("/dev/shm"),
    };
    let mut files = vec![
        ("/etc/resolv.conf", dir.join(files::RESOLV_CONF)),
        ("/etc/hostname", dir.join(files::HOSTNAME)),
        ("/dev/shm", shm),
    ];
    let environment = dir.join(files::CONTAINERENV);
    // Pods of an older daemon have none.
    if environment.try_exists().unwrap_or(false) {
        files.push(("/run/.containerenv", environment));
    }
    files
}

/// A requested mount of what is at `source`.
fn bind(
    mount: &crate::request::Mount,
    destination: String,
    source: PathBuf,
    rro_supported: bool,
) -> Result<mounts::Bind, Error> {
    if mount.recursive_readonly
        && !(mount.readonly && mount.propagation == mounts::Propagation::Private)
    {
        let text = format!(
            "recursive read-only mount of {} must be read-only and private",
            mount.container_path
        );
        return Err(Error::Invalid(text));
    }
    if mount.recursive_readonly && !rro_supported {
        return Err(Error::Invalid(
            "the runtime handler has no recursive read-only mounts".to_owned(),
        ));
    }
    Ok(mounts::Bind {
        destination,
        source,
        readonly: mount.readonly,
        recursive_readonly: mount.recursive_readonly,
        propagation: mount.propagation,
    })
}

/// A mount's source on the host, made where it is missing.
pub(crate) fn host_source(node: &Node, mount: &crate::request::Mount) -> Result<PathBuf, Error> {
    let source = match node.options.bind_mount_prefix.as_os_str().is_empty() {
        true => PathBuf::from(&mount.host_path),
        false => node
            .options
            .bind_mount_prefix
            .join(mount.host_path.trim_start_matches('/')),
    };
    if !source.is_absolute() {
        return Err(Error::Invalid(format!(
            "host path {:?} of a mount is not absolute",
            mount.host_path
        )));
    }
    match source.metadata() {
        Ok(_) => Ok(source),
        Err(missing) if missing.kind() == std::io::ErrorKind::NotFound => {
            if node.options.absent_sources_rejected.contains(&source) {
                return Err(Error::Invalid(format!(
                    "cannot mount {}: no such file or directory",
                    source.display()
                )));
            }
            fs::create_dir_all(&source).map_err(Error::io("create mount source", &source))?;
            Ok(source)
        }
        Err(error) => Err(Error::io("look at mount source", source)(error)),
    }
}

fn namespaces(node: &Node, pod: &Pod, pid: Namespace) -> Namespaces {
    let join = |pin: &Option<PathBuf>| pin.clone().map_or(Namespace::Host, Namespace::Join);
    Namespaces {
        pid,
        network: join(&pod.made.netns),
        ipc: join(&pod.made.ipcns),
        uts: join(&pod.made.utsns),
        user: join(&pod.made.userns),
        cgroup: if node.host.controllers.unified {
            Namespace::New
        } else {
            Namespace::Host
        },
    }
}

/// Users and groups of a user namespace, as the runtime is told them.
pub(crate) fn id_maps(map: storage::IdMap) -> [oci::IdMapping; 2] {
    [map.users, map.groups].map(|range| oci::IdMapping {
        container_id: 0,
        host_id: range.host,
        size: range.count,
    })
}

fn seccomp_filter(
    node: &Node,
    from: &Ingredients,
    of_handler: &Path,
    surroundings: seccomp::Surroundings,
) -> Result<Option<oci::Seccomp>, Error> {
    let read = |path: &Path| {
        let text = fs::read(path).map_err(Error::io("read seccomp profile", path))?;
        Ok::<_, Error>(Some(seccomp::Profile::parse(&text)?.filter(surroundings)))
    };
    let (request, changing) = (&from.request, node.changing.load());
    if let Some(text) = &from.seccomp {
        return Ok(Some(seccomp::Profile::parse(text)?.filter(surroundings)));
    }
    if request.privileged {
        return changing
            .privileged_seccomp_profile
            .as_deref()
            .map_or(Ok(None), read);
    }
    match &request.seccomp {
        Profile::Unset | Profile::Unconfined => Ok(None),
        Profile::Localhost(path) => read(Path::new(path.trim_start_matches("localhost/"))),
        Profile::RuntimeDefault if !of_handler.as_os_str().is_empty() => read(of_handler),
        Profile::RuntimeDefault => match &changing.seccomp_profile {
            Some(path) if path.try_exists().unwrap_or(true) => read(path),
            Some(_) | None => Ok(Some(seccomp::default_filter(surroundings))),
        },
    }
}

/// A time as RFC 3339 has it, in UTC; empty where that can't be.
#[must_use]
pub fn timestamp(at: SystemTime) -> String {
    jiff::Timestamp::try_from(at)
        .map(|at| at.to_string())
        .unwrap_or_default()
}

type Annotations = BTreeMap<String, String>;

fn put(annotations: &mut Annotations, key: &str, value: impl Into<String>) {
    annotations.insert(format!("{}{key}", annotations::PREFIX), value.into());
}

fn container_annotations(from: &Ingredients, allowed: &[String]) -> Annotations {
    let (request, pod) = (&from.request, &from.pod);
    let own = request.annotations.iter().chain(&pod.request.annotations);
    let own = own.filter(|(key, _)| annotations::passes(key, allowed));
    let mut all: Annotations = own
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let record = request.record_name(&pod.request.key);
    let volumes: Vec<_> = request
        .mounts
        .iter()
        .map(|mount| json!({"container_path": mount.container_path, "host_path": mount.host_path, "readonly": mount.readonly}))
        .collect();
    for (key, value) in [
        (name::ANNOTATIONS, json!(request.annotations).to_string()),
        (name::LABELS, json!(request.labels).to_string()),
        (
            name::METADATA,
            json!({"name": request.name, "attempt": request.attempt}).to_string(),
        ),
        (name::CONTAINER_ID, from.id.to_string()),
        (name::CONTAINER_NAME, record.clone()),
        (name::CONTAINER_TYPE, "container".to_owned()),
        (name::CREATED, timestamp(from.created)),
        (name::IMAGE, request.image.clone()),
        (name::IMAGE_NAME, from.image_name.clone()),
        (name::IMAGE_REF, from.image_id.clone()),
        (name::KUBE_NAME, pod.request.key.name.clone()),
        (name::LOG_PATH, from.log_path.clone()),
        (name::MOUNT_POINT, from.root.display().to_string()),
        (name::NAME, record),
        (name::NAMESPACE, pod.request.key.namespace.clone()),
        (
            name::RESOLV_PATH,
            pod.made
                .files
                .join(files::RESOLV_CONF)
                .display()
                .to_string(),
        ),
        (name::SANDBOX_ID, pod.id.to_string()),
        (name::SANDBOX_NAME, pod.request.key.record_name()),
        (name::STDIN, request.stdin.to_string()),
        (name::STDIN_ONCE, request.stdin_once.to_string()),
        (name::TTY, request.tty.to_string()),
        (name::VOLUMES, json!(volumes).to_string()),
    ] {
        put(&mut all, key, value);
    }
    all.insert("io.container.manager".to_owned(), "cri-o".to_owned());
    all
}

/// A pod's `config.json`: nothing runs it; CRI-O and hooks read its annotations.
pub(crate) fn pod_config(pod: &Pod) -> oci::Spec {
    let (request, made) = (&pod.request, &pod.made);
    let mut all: Annotations = request.annotations.clone();
    let network = if request.network == Shared::Host {
        2
    } else {
        0
    };
    let ipc = if request.ipc == Shared::Host { 2 } else { 0 };
    let pid = match request.pid {
        PidMode::Pod => 0,
        PidMode::Container | PidMode::Target(_) => 1,
        PidMode::Host => 2,
    };
    for (key, value) in [
        (name::ANNOTATIONS, json!(request.annotations).to_string()),
        (name::LABELS, json!(request.labels).to_string()),
        (name::METADATA, json!({"name": request.key.name, "uid": request.key.uid, "namespace": request.key.namespace, "attempt": request.key.attempt}).to_string()),
        (name::CONTAINER_ID, pod.id.to_string()),
        (name::CONTAINER_NAME, format!("k8s_POD_{}_{}_{}_{}", request.key.name, request.key.namespace, request.key.uid, request.key.attempt)),
        (name::CONTAINER_TYPE, "sandbox".to_owned()),
        (name::CREATED, timestamp(pod.created)),
        (name::HOST_NAME, made.hostname.clone()),
        (name::CGROUP_PARENT, made.cgroup_parent.clone()),
        (name::NAMESPACE_OPTIONS, json!({"network": network, "pid": pid, "ipc": ipc}).to_string()),
        (name::KUBE_NAME, request.key.name.clone()),
        (name::PORT_MAPPINGS, json!(request.port_mappings).to_string()),
        (name::LOG_PATH, made.log_directory.display().to_string()),
        (name::NAME, request.key.record_name()),
        (name::NAMESPACE, request.key.namespace.clone()),
        (name::PRIVILEGED_RUNTIME, request.privileged.to_string()),
        (name::RESOLV_PATH, made.files.join(files::RESOLV_CONF).display().to_string()),
        (name::HOSTNAME_PATH, made.files.join(files::HOSTNAME).display().to_string()),
        (name::SANDBOX_ID, pod.id.to_string()),
        (name::SANDBOX_NAME, request.key.record_name()),
        (name::SHM_PATH, made.files.join(files::SHM).display().to_string()),
        (name::RUNTIME_HANDLER, request.runtime_handler.clone()),
        (name::HOST_NETWORK, (request.network == Shared::Host).to_string()),
        (name::CNI_RESULT, made.cni_result.clone()),
    ] {
        put(&mut all, key, value);
    }
    for (number, ip) in made.ips.iter().enumerate() {
        put(&mut all, &format!("{}.{number}", name::IP), ip.to_string());
    }
    all.insert("io.container.manager".to_owned(), "cri-o".to_owned());
    all.insert("spoofed.crio.io".to_owned(), "true".to_owned());
    oci::Spec {
        oci_version: "1.0.2".to_owned(),
        annotations: all,
        ..oci::Spec::default()
    }
}

/// Annotations of the process that holds a pod's shared process namespace.
pub(crate) fn infra_annotations(pod: &crate::PodId) -> Annotations {
    let mut all = Annotations::new();
    put(&mut all, name::CONTAINER_TYPE, "sandbox");
    put(&mut all, name::CONTAINER_ID, pod.as_str());
    put(&mut all, name::SANDBOX_ID, pod.as_str());
    all
}
