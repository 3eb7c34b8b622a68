//! The kernel's texts, decoded: files of cgroups (`cgroup-v1/*.rst`, `cgroup-v2.rst`), pressure
//! (`psi.rst`), `/proc/PID/net/dev`, `/proc/PID/limits`. Pure; what can't be read counts as absent.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::collections::BTreeMap;

use crate::figures::{Device, Interface, Pressure, Stall, Traffic};
use crate::limits;

/// Version 1 has no word for "no limit": it shows the largest number of whole pages. Its size
/// depends on the page size, so what is beyond any machine counts.
const UNLIMITED: u64 = 1 << 62;

/// A file that holds one number.
#[must_use]
pub fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// A file that holds a limit: none for `max` and for the number that version 1 has in its place.
#[must_use]
pub fn limit(text: &str) -> Option<u64> {
    number(text).filter(|limit| *limit < UNLIMITED)
}

/// The values of some keys of a file of lines `key value`; 0 for one that is not there.
#[must_use]
pub fn fields<const N: usize>(text: &str, keys: [&str; N]) -> [u64; N] {
    let mut values = [0; N];
    for line in text.lines() {
        let Some((key, value)) = line.split_once(' ') else {
            continue;
        };
        let wanted = keys.iter().zip(&mut values).find(|(name, _)| **name == key);
        if let Some((_, slot)) = wanted {
            *slot = number(value).unwrap_or(0);
        }
    }
    values
}

/// Numbers in one line, as `cpuacct.usage_percpu` has them.
#[must_use]
pub fn list(text: &str) -> Vec<u64> {
    text.split_ascii_whitespace().filter_map(number).collect()
}

/// A `*.pressure` file.
#[must_use]
pub fn pressure(text: &str) -> Option<Pressure> {
    let mut found = None;
    for line in text.lines() {
        let Some((kind, values)) = line.split_once(' ') else {
            continue;
        };
        let pressure = found.get_or_insert_with(Pressure::default);
        match kind {
            "some" => pressure.some = stall(values),
            "full" => pressure.full = stall(values),
            _ => {}
        }
    }
    found
}

fn stall(values: &str) -> Stall {
    let mut stall = Stall::default();
    for (key, value) in values.split(' ').filter_map(|value| value.split_once('=')) {
        let share = || value.parse().unwrap_or(0.0);
        match key {
            "total" => stall.total = number(value).unwrap_or(0),
            "avg10" => stall.avg10 = share(),
            "avg60" => stall.avg60 = share(),
            "avg300" => stall.avg300 = share(),
            _ => {}
        }
    }
    stall
}

/// `io.stat` of version 2: `8:0 rbytes=1 wbytes=2 rios=3 wios=4 …`.
#[must_use]
pub fn io_v2(text: &str) -> Vec<Device> {
    let device = |line: &str| {
        let (number, values) = line.split_once(' ')?;
        let mut device = Device {
            number: device_number(number)?,
            ..Device::default()
        };
        for (key, value) in values.split(' ').filter_map(|value| value.split_once('=')) {
            let value = value.parse().unwrap_or(0);
            match key {
                "rbytes" => device.read_bytes = value,
                "wbytes" => device.written_bytes = value,
                "rios" => device.reads = value,
                "wios" => device.writes = value,
                _ => {}
            }
        }
        Some(device)
    };
    text.lines()
        .filter_map(device)
        .take(limits::DEVICES)
        .collect()
}

/// `blkio.throttle.io_service_bytes` and `io_serviced` of version 1: `8:0 Read 4096`.
#[must_use]
pub fn io_v1(bytes: &str, operations: &str) -> Vec<Device> {
    let mut devices = BTreeMap::new();
    let mut each = |text: &str, set: fn(&mut Device, &str, u64)| {
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            let (Some(number), Some(operation), Some(value)) =
                (words.next(), words.next(), words.next())
            else {
                continue;
            };
            let Some(number) = device_number(number) else {
                continue;
            };
            if devices.len() >= limits::DEVICES && !devices.contains_key(&number) {
                continue;
            }
            let device = devices.entry(number).or_insert_with(|| Device {
                number,
                ..Device::default()
            });
            set(device, operation, value.parse().unwrap_or(0));
        }
    };
    each(bytes, |device, operation, value| match operation {
        "Read" => device.read_bytes = value,
        "Write" => device.written_bytes = value,
        _ => {}
    });
    each(operations, |device, operation, value| match operation {
        "Read" => device.reads = value,
        "Write" => device.writes = value,
        _ => {}
    });
    devices.into_values().collect()
}

fn device_number(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// `/proc/PID/net/dev` without the loopback device, as cAdvisor tells it.
#[must_use]
pub fn interfaces(text: &str) -> Vec<Interface> {
    let interface = |line: &str| {
        let (name, counters) = line.split_once(':')?;
        let mut counters = counters.split_ascii_whitespace().filter_map(number);
        let mut traffic = |rest: usize| {
            let traffic = Traffic {
                bytes: counters.next()?,
                packets: counters.next()?,
                errors: counters.next()?,
                dropped: counters.next()?,
            };
            counters.by_ref().take(rest).for_each(drop);
            Some(traffic)
        };
        Some(Interface {
            name: name.trim().to_owned(),
            received: traffic(4)?,
            sent: traffic(4)?,
        })
    };
    text.lines()
        .filter_map(interface)
        .filter(|interface| interface.name != "lo")
        .take(limits::INTERFACES)
        .collect()
}

/// The soft limit on open files in `/proc/PID/limits`; none for `unlimited`.
#[must_use]
pub fn soft_open_files(text: &str) -> Option<u64> {
    let values = text
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    number(values.split_ascii_whitespace().next()?)
}

#[cfg(test)]
mod tests;
