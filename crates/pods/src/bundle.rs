//! From a request to a bundle: looks up what a spec depends on (the image's accounts, host paths
//! and devices, profiles) and puts the parts together.

mod annotations;
mod binds;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use spec::container::{Namespace, Namespaces, Parts};
use spec::environment::{DECODER, Environment};
use spec::mounts::Bind;
use spec::process::ImageDefaults;
use spec::{mounts, oci, seccomp};

pub use annotations::timestamp;
pub(crate) use annotations::{infra_annotations, pod_config};
pub(crate) use binds::host_source;

use crate::image_volumes::Volume;
use crate::node::Node;
use crate::request::{Profile, Shared};
use crate::rootfs::Rootfs;
use crate::state::container::{Made, Restored};
use crate::state::pod::Pod;
use crate::{
    ContainerId, ContainerRequest, Error, accounts, cdi, default_mounts, devices, files, handlers,
    own_volumes, seccomp_notifier, selinux, timezone,
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
    /// Names of the image by digest.
    pub(crate) repo_digests: Vec<String>,
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
    let handler = handlers::of(node, pod)?;
    let changing = node.changing.load_full();
    let rootfs = Rootfs::open(&from.root, pod.request.id_map)?;
    let user = rootfs.user(&request.user, &from.image.user)?;
    let capabilities = capabilities(node, request, user.uid == 0)?;
    let cwd = spec::process::working_dir(&from.image, &request.working_dir)?;
    rootfs.make_dir(&cwd, None)?;
    let env = environment(node, from)?;
    let mut own_files = pod_files(pod);
    own_files.extend(accounts::complete(
        &rootfs,
        from,
        &user,
        &env.entries,
        &cwd,
    )?);
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
    let mut binds = binds::requested(node, from, &handler)?;
    binds.extend(own_volumes::make(node, from, &rootfs, &user)?);
    binds.extend(default_mounts::make(node, from, &binds)?);
    if !env.encoded.is_empty() {
        binds.push(decoder(node, from)?);
    }
    let all_devices = request.privileged && !handler.config.privileged_without_host_devices;
    let owner = match node.options.device_ownership {
        true => devices::Owner {
            user: request.user.uid.map(|_| user.uid),
            group: request.user.gid.map(|_| user.gid),
        },
        false => devices::Owner::default(),
    };
    let additional = &node.options.additional_devices;
    let devices = devices::resolve(additional, &request.devices, owner, all_devices)?;
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
    let surroundings = seccomp::Surroundings {
        bounding: capabilities.bounding,
        kernel: node.host.kernel,
    };
    let mut seccomp = seccomp_filter(node, from, &handler.config.seccomp_profile, surroundings)?;
    let allowed = &handler.config.allowed_annotations;
    let notifier = notifier(node, from, allowed, seccomp.as_mut())?;
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
        notifier,
    };
    let process = oci::Process {
        terminal: request.tty,
        user,
        args: env.decoding(arguments(from)?),
        env: env.entries,
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
        seccomp,
        masked_paths: request.masked_paths.clone(),
        masked_on_node: node.host.masked.clone(),
        readonly_paths: request.readonly_paths.clone(),
        annotations: annotations::container_annotations(from, allowed),
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

fn environment(node: &Node, from: &Ingredients) -> Result<Environment, Error> {
    let host_name = format!("HOSTNAME={}", from.pod.made.hostname);
    // As with CRI-O, whether there is a terminal or not.
    let own = ["TERM=xterm".to_owned(), host_name];
    Ok(spec::environment::environment(
        &node.options.default_env,
        &from.image,
        &from.request.envs,
        &own,
    )?)
}

/// What runs. Processes that are restored go on with what they ran: where neither the request nor the image
/// names anything, that is told.
fn arguments(from: &Ingredients) -> Result<Vec<String>, Error> {
    let request = &from.request;
    match spec::process::arguments(&from.image, &request.command, &request.args) {
        Err(spec::Error::NoCommand) if from.restored.is_some() => Ok(from
            .restored
            .iter()
            .flat_map(|was| was.args.clone())
            .collect()),
        arguments => Ok(arguments?),
    }
}

/// The program that decodes the variables which the runtime can't be told.
fn decoder(node: &Node, from: &Ingredients) -> Result<Bind, Error> {
    let program = node.options.decode_env.as_deref().ok_or_else(|| {
        let what = "a variable is not UTF-8, and the program decode-env is not installed";
        Error::Invalid(what.to_owned())
    })?;
    Ok(Bind {
        destination: DECODER.to_owned(),
        source: selinux::program(program, &from.bundle, &from.selinux.mount)?,
        readonly: true,
        ..Bind::default()
    })
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
    // In the host's network the names are the host's, unless the kubelet gives some.
    let hosts = Path::new(mounts::HOSTS);
    if pod.request.network == Shared::Host && hosts.is_file() {
        files.push((mounts::HOSTS, hosts.to_owned()));
    }
    let environment = dir.join(files::CONTAINERENV);
    // Pods of an older daemon have none.
    if environment.try_exists().unwrap_or(false) {
        files.push(("/run/.containerenv", environment));
    }
    files
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

/// Has the filter leave what it forbids to a listener, where the pod asks for that. criu restores none.
fn notifier(
    node: &Node,
    from: &Ingredients,
    allowed: &[String],
    filter: Option<&mut oci::Seccomp>,
) -> Result<Option<seccomp_notifier::Action>, Error> {
    let action = seccomp_notifier::action(&from.pod.request.annotations, allowed);
    let (Some(action), Some(filter), None) = (action, filter, &from.restored) else {
        return Ok(None);
    };
    let injected = seccomp_notifier::inject(node, &from.id, filter)?;
    Ok(injected.then_some(action))
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
