//! Host ports: ports of the node that lead to pods.
//!
//! Owns `<state_dir>/<pod id>`, a file on tmpfs that says what a pod has, and in the kernel what
//! CRI-O calls the same: the tables `crio-hostports`, or the chains `KUBE-HOSTPORTS`, `KUBE-HP-…`,
//! `CRIO-HOSTPORTS-MASQ` and `CRIO-MASQ-…`, one of each per address family.
//!
//! * A pod's file is written before its rules and goes after them: rules without a file are not
//!   ours, so that nothing of another's is ever taken away.
//! * The file says which backend has set the rules too: a node that is started with another one has
//!   the new rules set, and then the old ones taken away.
//! * Every change states all pods' rules again, in one transaction per family. What is there already
//!   stays as it is, and what somebody flushed comes back.
//! * Only what is for an address of the node is redirected (`fib daddr type local`): a pod's or a
//!   stranger's port of the same number is not.
//! * The node reaches the ports at 127.0.0.1 too. For that the interface towards the pod takes
//!   packets with loopback addresses (`route_localnet`), and a rule of ours drops those that really
//!   come from outside. IPv6 has no such switch: `::1` is left alone.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sys::spawn::{self, Program};

use crate::error::{Error, Result};
use crate::pod::{PortMapping, Protocol};

mod conntrack;
mod iptables;
mod nftables;
mod record;
mod routes;

use record::Kept;

/// How long a program that sets rules may take; they wait for each other's locks.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Where the programs are, if not in `PATH`.
const USUAL_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What sets the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// `nft`.
    Nftables,
    /// `iptables-restore` and `ip6tables-restore`.
    Iptables,
}

/// A pod that ports of the node lead to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forwarded {
    /// The pod's id.
    pub pod_id: String,
    /// Its name, for people who read the rules.
    pub name: String,
    /// Its addresses; the first one of each family gets the ports.
    pub ips: Vec<IpAddr>,
    /// The ports. Host port 0 is none.
    pub mappings: Vec<PortMapping>,
}

/// The node's host ports. Shared by reference; changes are made one after another.
#[derive(Debug)]
pub struct HostPorts {
    state_dir: PathBuf,
    /// What was chosen, or is as soon as it is needed.
    backend: OnceLock<Backend>,
    pods: Mutex<Option<Pods>>,
}

/// Pods that have ports, by id.
type Pods = BTreeMap<String, Kept>;

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Family {
    V4,
    V6,
}

impl Family {
    const BOTH: [Self; 2] = [Self::V4, Self::V6];

    fn of(address: IpAddr) -> Self {
        if address.is_ipv4() {
            Self::V4
        } else {
            Self::V6
        }
    }
}

/// One port of one pod in one family.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    /// Tells the pod's rules from others': see [`mark`].
    mark: String,
    pod_id: String,
    name: String,
    protocol: Protocol,
    /// The address of the node that it is for; every one if `None`.
    host_ip: Option<IpAddr>,
    host_port: u16,
    pod_ip: IpAddr,
    container_port: u16,
}

impl HostPorts {
    /// Makes it; nothing is read or changed yet. Without a `backend` it is nftables where that
    /// works, else iptables.
    #[must_use]
    pub fn new(state_dir: PathBuf, backend: Option<Backend>) -> Self {
        Self {
            state_dir,
            backend: backend.map(OnceLock::from).unwrap_or_default(),
            pods: Mutex::default(),
        }
    }

    /// Has the node's ports lead to a pod. Fine if they do already.
    ///
    /// # Errors
    /// [`Error::HostPortTaken`]; a program that failed, after which [`Self::remove`] cleans up.
    pub fn add(&self, pod: &Forwarded) -> Result<()> {
        let rules = rules(pod);
        if rules.is_empty() {
            return Ok(());
        }
        let mut guard = self.pods()?;
        let pods = guard.get_or_insert_default();
        let others = pods.values().map(|other| &other.pod);
        let others = others.filter(|other| other.pod_id != pod.pod_id);
        if let Some(taken) = conflict(&rules, others) {
            return Err(taken);
        }
        let kept = Kept {
            pod: pod.clone(),
            backend: Some(self.backend()),
        };
        record::write(&self.state_dir, &kept)?;
        pods.insert(pod.pod_id.clone(), kept);
        fault("host-ports.add.recorded", pod)?;
        self.apply(&all_rules(pods.values().map(|kept| &kept.pod)), &[])?;
        fault("host-ports.add.applied", pod)?;
        forget_connections(&rules)
    }

    /// Takes a pod's ports away; fine if it has none.
    ///
    /// # Errors
    /// A program failed: the file stays, and a repeat tries again.
    pub fn remove(&self, pod_id: &str) -> Result<()> {
        let mut guard = self.pods()?;
        let pods = guard.get_or_insert_default();
        let Some(Kept { pod, backend }) = pods.get(pod_id).cloned() else {
            return Ok(());
        };
        let gone = rules(&pod);
        let others = pods.values().map(|other| &other.pod);
        let others = others.filter(|other| other.pod_id != pod_id);
        self.apply(&all_rules(others), &gone)?;
        if let Some(other) = backend.filter(|backend| *backend != self.backend()) {
            apply_by(other, &[], &gone)?;
        }
        fault("host-ports.remove.applied", &pod)?;
        record::erase(&self.state_dir, pod_id)?;
        pods.remove(pod_id);
        forget_connections(&gone)
    }

    /// Brings the kernel to what the files say, without the pods that are not in `living`.
    ///
    /// # Errors
    /// As of [`Self::remove`].
    pub fn reconcile(&self, living: &[String]) -> Result<()> {
        let stale: Vec<String> = {
            let mut guard = self.pods()?;
            let pods = guard.get_or_insert_default();
            let lives = pods.values().map(|kept| &kept.pod);
            let rules = all_rules(lives.filter(|pod| living.contains(&pod.pod_id)));
            if !rules.is_empty() {
                self.apply(&rules, &[])?;
            }
            self.take_over(pods, living)?;
            let gone = pods.keys().filter(|id| !living.contains(id));
            gone.cloned().collect()
        };
        stale.iter().try_for_each(|id| self.remove(id))
    }

    /// Takes away what another backend has set for pods that have their rules by ours now. Where that
    /// can't be done the pods' files go on to name it, and the next start tries again.
    fn take_over(&self, pods: &mut Pods, living: &[String]) -> Result<()> {
        for other in [Backend::Nftables, Backend::Iptables] {
            let theirs =
                |kept: &&mut Kept| kept.backend == Some(other) && living.contains(&kept.pod.pod_id);
            let mut moved: Vec<_> = pods.values_mut().filter(theirs).collect();
            if moved.is_empty() || other == self.backend() {
                continue;
            }
            let gone = all_rules(moved.iter().map(|kept| &kept.pod));
            if let Err(error) = apply_by(other, &[], &gone) {
                tracing::warn!(?other, %error, "old rules of host ports not taken away");
                continue;
            }
            for kept in &mut moved {
                kept.backend = Some(self.backend());
                record::write(&self.state_dir, kept)?;
            }
        }
        Ok(())
    }

    fn backend(&self) -> Backend {
        *self.backend.get_or_init(choose)
    }

    /// The pods that have ports, read from their files at first.
    fn pods(&self) -> Result<MutexGuard<'_, Option<Pods>>> {
        let mut guard = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        if guard.is_none() {
            *guard = Some(record::read(&self.state_dir)?);
        }
        Ok(guard)
    }

    fn apply(&self, wanted: &[Rule], gone: &[Rule]) -> Result<()> {
        apply_by(self.backend(), wanted, gone)?;
        // After the rule that keeps loopback addresses from outside away.
        for rule in wanted {
            routes::let_loopback_through(rule.pod_ip);
        }
        Ok(())
    }
}

/// One transaction per family that has something to add or to take away.
fn apply_by(backend: Backend, wanted: &[Rule], gone: &[Rule]) -> Result<()> {
    for family in Family::BOTH {
        let of = |rules: &[Rule]| -> Vec<Rule> {
            let of_family = |rule: &&Rule| Family::of(rule.pod_ip) == family;
            rules.iter().filter(of_family).cloned().collect()
        };
        let (wanted, gone) = (of(wanted), of(gone));
        if wanted.is_empty() && gone.is_empty() {
            continue;
        }
        match backend {
            Backend::Nftables => nftables::apply(family, &wanted, &gone)?,
            Backend::Iptables => iptables::apply(family, &wanted, &gone)?,
        }
    }
    Ok(())
}

/// A pod's rules: for the first address of each family, the ports that are for that family.
fn rules(pod: &Forwarded) -> Vec<Rule> {
    let mut rules = Vec::new();
    for family in Family::BOTH {
        let Some(pod_ip) = pod.ips.iter().find(|ip| Family::of(**ip) == family) else {
            continue;
        };
        for mapping in &pod.mappings {
            let meant = mapping.host_ip.is_none_or(|ip| Family::of(ip) == family);
            if mapping.host_port == 0 || !meant {
                continue;
            }
            rules.push(Rule {
                mark: mark(&pod.pod_id),
                pod_id: pod.pod_id.clone(),
                name: pod.name.clone(),
                protocol: mapping.protocol,
                host_ip: mapping.host_ip.filter(|ip| !ip.is_unspecified()),
                host_port: mapping.host_port,
                pod_ip: *pod_ip,
                container_port: mapping.container_port,
            });
        }
    }
    rules
}

fn all_rules<'a>(pods: impl Iterator<Item = &'a Forwarded>) -> Vec<Rule> {
    pods.flat_map(rules).collect()
}

/// The first of `rules` whose place another pod has, or another rule of the pod's own.
fn conflict<'a>(rules: &[Rule], others: impl Iterator<Item = &'a Forwarded>) -> Option<Error> {
    let others = all_rules(others);
    let same = |a: &Rule, b: &Rule| {
        (a.protocol, a.host_port, a.host_ip) == (b.protocol, b.host_port, b.host_ip)
            && Family::of(a.pod_ip) == Family::of(b.pod_ip)
    };
    let taken = |(index, rule): (usize, &Rule)| {
        let earlier = rules.iter().take(index);
        let other = others.iter().chain(earlier);
        other.into_iter().find(|other| same(rule, other)).cloned()
    };
    let other = rules.iter().enumerate().find_map(taken)?;
    Some(Error::HostPortTaken {
        port: other.host_port,
        protocol: other.protocol.word(),
        host_ip: other.host_ip,
        pod: other.pod_id,
    })
}

/// What tells a pod's rules: the beginning of its id's digest in base 32, as CRI-O has it.
fn mark(pod_id: &str) -> String {
    short_digest(pod_id)
}

/// Sixteen characters of the SHA-256 in base 32 (RFC 4648).
fn short_digest(text: &str) -> String {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    let bits = digest
        .as_ref()
        .iter()
        .take(10)
        .fold(0u128, |bits, byte| bits << 8 | u128::from(*byte));
    (0..16)
        .rev()
        .filter_map(|place| ALPHABET.get(usize::try_from(bits >> (place * 5) & 31).ok()?))
        .map(|letter| char::from(*letter))
        .collect()
}

/// nftables where it does what we need, else iptables.
fn choose() -> Backend {
    let backend = if nftables::works() {
        Backend::Nftables
    } else {
        Backend::Iptables
    };
    tracing::info!(?backend, "host ports");
    backend
}

/// Connections that UDP rules would have met, or have met, are new ones from now on.
fn forget_connections(rules: &[Rule]) -> Result<()> {
    for rule in rules.iter().filter(|rule| rule.protocol == Protocol::Udp) {
        conntrack::forget_udp(Family::of(rule.pod_ip) == Family::V6, rule.host_port)
            .map_err(|error| Error::io("forget connections to", &rule.pod_id, error))?;
    }
    Ok(())
}

/// Runs a program that sets or tells rules, and returns what it printed.
fn run(program: &'static str, args: &[&str], stdin: String) -> Result<Vec<u8>> {
    let path = std::env::var("PATH").unwrap_or_default();
    let failed = |text: String| Error::HostPorts { program, text };
    let file = spawn::which(program, &path)
        .or_else(|| spawn::which(program, USUAL_PATH))
        .ok_or_else(|| failed("not installed".to_owned()))?;
    let ran = Program {
        env: vec![("PATH".into(), USUAL_PATH.into())],
        stdin: stdin.into_bytes(),
        output_limit: crate::limits::RULES_BYTES,
        ..Program::new(file, TIMEOUT)
    };
    let output =
        spawn::run(&ran.args(args.iter().copied())).map_err(|error| failed(error.to_string()))?;
    if output.truncated {
        return Err(failed("it printed too much".to_owned()));
    }
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        let words: String = words.chars().take(crate::limits::QUOTED_BYTES).collect();
        return Err(failed(format!("{}: {}", output.status, words.trim())));
    }
    Ok(output.stdout)
}

/// A place where a test build can be made to fail or die.
fn fault(point: &str, pod: &Forwarded) -> Result<()> {
    sys::fault::point(point).map_err(|error| Error::io("forward ports to", &pod.pod_id, error))
}

#[cfg(test)]
mod tests;
