//! The store's options: `[crio]` and the storage options that `storage.conf` and `crio.conf` make up.

use std::path::PathBuf;

use ::storage::{Driver, ForceMask, LayerStore};
use anyhow::{Result, anyhow};
use config::Settings;

use super::LOCK_TIMEOUT;

/// The names of a driver, with which options of it begin; `overlay2` is an old one.
fn names(driver: Driver) -> &'static [&'static str] {
    match driver {
        Driver::Overlay => &["overlay", "overlay2"],
        Driver::Vfs => &["vfs"],
    }
}

/// The store's place and options.
///
/// # Errors
/// An option that is not there, makes no sense, or asks for something that we don't do.
pub(crate) fn storage(settings: &Settings) -> Result<::storage::Options> {
    let driver = match settings.text("crio", "storage_driver") {
        name if name.is_empty() || names(Driver::Overlay).contains(&name) => Driver::Overlay,
        name if names(Driver::Vfs).contains(&name) => Driver::Vfs,
        name => {
            let text = format!("storage driver {name:?} is not supported: overlay and vfs are");
            return Err(settings.wrong("crio", "storage_driver", text).into());
        }
    };
    let mut options =
        ::storage::Options::new(absolute(settings, "root")?, absolute(settings, "runroot")?);
    options.driver = driver;
    options.lock_timeout = LOCK_TIMEOUT;
    if !settings.text("crio", "imagestore").is_empty() {
        let image_root = absolute(settings, "imagestore")?;
        if image_root == options.root {
            let text = "has to be another directory than root";
            return Err(settings.wrong("crio", "imagestore", text).into());
        }
        options.image_root = Some(image_root);
    }
    for option in settings.list("crio", "storage_option") {
        if let Err(error) = apply(option, &mut options) {
            let text = format!("{option:?}: {error:#}");
            return Err(settings.wrong("crio", "storage_option", text).into());
        }
    }
    consistent(&options).map_err(|text| settings.wrong("crio", "storage_option", text))?;
    Ok(options)
}

/// Options that need each other, or don't go together.
fn consistent(options: &::storage::Options) -> Result<(), &'static str> {
    let program = options.mount_program.is_some();
    if options.driver == Driver::Vfs && (program || options.force_mask.is_some()) {
        return Err("mount_program and force_mask are for the driver overlay");
    }
    if options.force_mask.is_some() && !options.layer_stores.is_empty() {
        return Err("force_mask and additional layer stores don't go together");
    }
    if options.force_mask.is_some() && !program {
        return Err(
            "force_mask is only supported with a mount_program: no container could be made",
        );
    }
    Ok(())
}

fn absolute(settings: &Settings, key: &str) -> Result<PathBuf> {
    let path = settings.path("crio", key);
    if path.is_absolute() {
        return Ok(path);
    }
    Err(settings.wrong("crio", key, "has to be absolute").into())
}

/// Applies one option: `key=value`, or `driver.key=value` for one driver (containers-storage.conf(5),
/// the driver's table).
fn apply(option: &str, options: &mut ::storage::Options) -> Result<()> {
    let (key, value) = option
        .split_once('=')
        .ok_or_else(|| anyhow!("it is not key=value"))?;
    let (key, value) = (key.trim(), value.trim());
    let key = match key.split_once('.') {
        None => key,
        Some((driver, key)) if driver.is_empty() || names(options.driver).contains(&driver) => key,
        // Of another driver.
        Some(_) => return Ok(()),
    };
    match key {
        "mountopt" if options.driver == Driver::Vfs => {
            return Err(anyhow!("the driver vfs mounts nothing"));
        }
        "mountopt" => {
            options.mount_options = value.split(',').map(|one| one.trim().to_owned()).collect();
        }
        "imagestore" | "additionalimagestore" => {
            for root in value.split(',').filter(|root| !root.is_empty()) {
                let root = PathBuf::from(root);
                if !root.is_absolute() {
                    return Err(anyhow!("the path of a store has to be absolute"));
                }
                options.additional.push(root);
            }
        }
        "disable_volatile" => options.volatile = !truth(value)?,
        "skip_mount_home" => options.mount_home = !truth(value)?,
        // We always sync what a layer's record will name, and checked the kernel ourselves.
        "sync" if matches!(value, "none" | "filesystem") => {}
        "override_kernel_check" => {}
        "ignore_chown_errors" => options.ignore_chown_errors = truth(value)?,
        // What does nothing when it is off.
        "use_composefs" if !truth(value)? => {}
        "additionallayerstore" if options.driver == Driver::Vfs => {
            return Err(anyhow!("the driver vfs takes no layers of other stores"));
        }
        "additionallayerstore" => {
            for one in value.split(',').filter(|one| !one.is_empty()) {
                options.layer_stores.push(layer_store(one)?);
            }
        }
        "mount_program" => options.mount_program = program(value)?,
        "force_mask" => options.force_mask = mask(value)?,
        "sync" => return Err(anyhow!("neither none nor filesystem")),
        "size" => options.quota.bytes = size(value)?,
        "inodes" => {
            options.quota.inodes = match value {
                "" => 0,
                number => number.parse().map_err(|_| anyhow!("no number"))?,
            };
        }
        "use_composefs" => return Err(anyhow!("not supported")),
        _ => return Err(anyhow!("unknown option")),
    }
    Ok(())
}

/// `PATH`, or `PATH:ref` where layers are below their image's reference.
fn layer_store(text: &str) -> Result<LayerStore> {
    let (path, by_reference) = match text.split_once(':') {
        None => (text, false),
        Some((path, "ref")) => (path, true),
        Some((_, option)) => return Err(anyhow!("unknown option {option:?} of a layer store")),
    };
    let path = PathBuf::from(path);
    if !path.is_absolute() {
        return Err(anyhow!("the path of a layer store has to be absolute"));
    }
    if !path.is_dir() {
        return Err(anyhow!("no directory of layers is there"));
    }
    Ok(LayerStore { path, by_reference })
}

fn program(path: &str) -> Result<Option<PathBuf>> {
    if path.is_empty() {
        return Ok(None);
    }
    let path = PathBuf::from(path);
    if !path.is_absolute() || !path.is_file() {
        return Err(anyhow!("no program is there"));
    }
    Ok(Some(path))
}

/// `shared`, `private`, or permissions in octal.
fn mask(value: &str) -> Result<Option<ForceMask>> {
    let mode = match value {
        "" | "0" => return Ok(None),
        "shared" => 0o755,
        "private" => 0o700,
        octal => u32::from_str_radix(octal, 8)
            .map_err(|_| anyhow!("neither shared, private nor octal permissions"))?,
    };
    ForceMask::new(mode).map(Some).map_err(anyhow::Error::msg)
}

/// Bytes, as containers/storage reads them: a number, which may have a fraction, and a unit of 1024,
/// `10G`, `1.5 gb`, `512MiB`.
fn size(text: &str) -> Result<u64> {
    const UNITS: &str = "bkmgtp";
    let wrong = || anyhow!("no size, as 10G is one");
    if text.is_empty() {
        return Ok(0);
    }
    let lower = text.to_ascii_lowercase();
    let end = lower.find(|c: char| c.is_ascii_alphabetic());
    let (number, unit) = lower.split_at(end.unwrap_or(lower.len()));
    let number: f64 = number.trim_end().parse().map_err(|_| wrong())?;
    let mut letters = unit.chars();
    let power = letters.next().map_or(Some(0), |unit| UNITS.find(unit));
    let power = power.ok_or_else(wrong)?;
    let rest = letters.as_str();
    let known = matches!((power, rest), (_, "") | (1.., "b" | "ib"));
    let bytes = number * 1024_f64.powi(i32::try_from(power)?);
    if !known || !(0.0..MOST_BYTES).contains(&bytes) {
        return Err(wrong());
    }
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "its range was checked, and a fraction of a byte is none"
    )]
    Ok(bytes as u64)
}

/// Where a size ends to be one: 2^63, as for Go.
const MOST_BYTES: f64 = 9_223_372_036_854_775_808.0;

/// As Go reads it.
fn truth(value: &str) -> Result<bool> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "" | "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(anyhow!("neither true nor false")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> ::storage::Options {
        ::storage::Options::new("/root".into(), "/run".into())
    }

    #[test]
    fn options_of_the_driver_and_of_any_are_applied_the_last_wins() {
        let mut got = options();
        for option in [
            "mountopt=nosuid",
            "overlay.mountopt=nodev, metacopy=on",
            "imagestore=/a",
            "overlay2.additionalimagestore=/b,/c",
            "overlay.skip_mount_home=true",
            "disable_volatile=true",
            "overlay.mount_program=",
            "overlay.ignore_chown_errors=false",
            "sync=none",
            "zfs.mountopt=x",
            "vfs.whatever=1",
        ] {
            apply(option, &mut got).unwrap();
        }
        assert_eq!(got.mount_options, ["nodev", "metacopy=on"]);
        let roots: Vec<_> = got
            .additional
            .iter()
            .map(|root| root.to_str().unwrap())
            .collect();
        assert_eq!(roots, ["/a", "/b", "/c"]);
        assert!(!got.mount_home && !got.volatile);
    }

    #[test]
    fn options_of_another_driver_are_none() {
        let mut got = ::storage::Options {
            driver: Driver::Vfs,
            ..options()
        };
        for option in [
            "overlay.mountopt=nodev",
            "overlay.new=1",
            "vfs.imagestore=/a",
        ] {
            apply(option, &mut got).unwrap();
        }
        assert!(got.mount_options.is_empty());
        assert_eq!(got.additional, [PathBuf::from("/a")]);
        for option in ["mountopt=nodev", "vfs.mountopt=nodev"] {
            let error = apply(option, &mut got).unwrap_err().to_string();
            assert!(error.contains("mounts nothing"), "{option}: {error}");
        }
        assert!(apply("vfs.new=1", &mut got).is_err());
    }

    #[test]
    fn a_mask_needs_a_program_and_both_need_overlay() {
        let mut got = options();
        assert!(consistent(&got).is_ok());
        apply("overlay.force_mask=shared", &mut got).unwrap();
        assert!(consistent(&got).unwrap_err().contains("mount_program"));
        apply("overlay.mount_program=/bin/sh", &mut got).unwrap();
        assert!(consistent(&got).is_ok());
        for (mask, mode) in [("private", 0o700), ("shared", 0o755), ("0750", 0o750)] {
            apply(&format!("force_mask={mask}"), &mut got).unwrap();
            assert_eq!(got.force_mask, Some(ForceMask::new(mode).unwrap()));
        }
        let driver = Driver::Vfs;
        let error = consistent(&::storage::Options { driver, ..got }).unwrap_err();
        assert!(error.contains("for the driver overlay"), "{error}");
        let mut none = options();
        apply("overlay.mount_program=", &mut none).unwrap();
        apply("force_mask=0", &mut none).unwrap();
        apply("vfs.ignore_chown_errors=true", &mut none).unwrap();
        assert!(none.mount_program.is_none() && none.force_mask.is_none());
        assert!(!none.ignore_chown_errors);
        apply("ignore_chown_errors=true", &mut none).unwrap();
        assert!(none.ignore_chown_errors);
    }

    #[test]
    fn layer_stores_are_directories_for_overlay() {
        let mut got = options();
        apply("additionallayerstore=", &mut got).unwrap();
        apply("overlay.additionallayerstore=/,/tmp:ref", &mut got).unwrap();
        let stores = got.layer_stores.iter();
        let stores: Vec<_> = stores
            .map(|it| (it.path.to_str(), it.by_reference))
            .collect();
        assert_eq!(stores, [(Some("/"), false), (Some("/tmp"), true)]);
        let driver = Driver::Vfs;
        let mut vfs = ::storage::Options {
            driver,
            ..options()
        };
        for (option, told) in [
            ("additionallayerstore=/:ref:ref", "unknown option"),
            ("additionallayerstore=/:other", "unknown option"),
            ("additionallayerstore=tmp", "absolute"),
            ("additionallayerstore=/no/such/place", "no directory"),
        ] {
            let error = apply(option, &mut options()).unwrap_err().to_string();
            assert!(error.contains(told), "{option}: {error}");
        }
        assert!(apply("additionallayerstore=/", &mut vfs).is_err());
        apply("mount_program=/bin/sh", &mut got).unwrap();
        assert!(consistent(&got).is_ok());
        apply("force_mask=shared", &mut got).unwrap();
        let error = consistent(&got).unwrap_err();
        assert!(error.contains("don't go together"), "{error}");
    }

    #[test]
    fn sizes_are_read_as_containers_storage_reads_them() {
        for (text, bytes) in [
            ("", Some(0)),
            ("0", Some(0)),
            ("32", Some(32)),
            ("32b", Some(32)),
            ("32kb", Some(32 << 10)),
            ("32 KiB", Some(32 << 10)),
            ("10G", Some(10 << 30)),
            ("1.5g", Some(3 << 29)),
            (".3kB", Some(307)),
            ("2Tb", Some(2 << 40)),
            ("4PB", Some(4 << 50)),
            ("", Some(0)),
            ("hello", None),
            ("-32", None),
            ("10 G 1", None),
            ("10bb", None),
            ("10ex", None),
            ("1e3", None),
            ("inf", None),
            ("nan", None),
            ("32m b", None),
            ("9000000P", None),
        ] {
            assert_eq!(size(text).ok(), bytes, "{text:?}");
        }
    }

    #[test]
    fn quotas_are_for_every_container() {
        let mut got = options();
        for option in ["size=5G", "overlay.size=1G", "overlay.inodes=1000"] {
            apply(option, &mut got).unwrap();
        }
        assert_eq!((got.quota.bytes, got.quota.inodes), (1 << 30, 1000));
        for option in ["overlay.size=", "overlay.inodes=0"] {
            apply(option, &mut got).unwrap();
        }
        assert!(!got.quota.is_any());
    }

    #[test]
    fn what_is_not_done_is_refused() {
        for (option, told) in [
            (
                "overlay.mount_program=/nowhere/mounts",
                "no program is there",
            ),
            ("overlay.mount_program=mounts", "no program is there"),
            (
                "overlay.force_mask=some",
                "neither shared, private nor octal",
            ),
            ("overlay.force_mask=4755", "more than permissions"),
            ("overlay.use_composefs=true", "not supported"),
            ("overlay.size=much", "no size"),
            ("overlay.inodes=-1", "no number"),
            ("ignore_chown_errors=often", "neither true nor false"),
            ("overlay.new=1", "unknown option"),
            ("overlay.skip_mount_home=maybe", "neither true nor false"),
            ("imagestore=a", "absolute"),
            ("overlay.sync=sometimes", "neither none nor filesystem"),
            ("size", "not key=value"),
        ] {
            let error = apply(option, &mut options()).unwrap_err().to_string();
            assert!(error.contains(told), "{option}: {error}");
        }
    }
}
