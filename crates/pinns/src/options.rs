//! The command line: that of CRI-O's helper of this name, and `--hostname`, `--loopback`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use sys::namespace::Kind;

use crate::sysctl::Sysctl;

/// What `--help` says.
pub(crate) const USAGE: &str = "\
usage: pinns -d DIR -f NAME [OPTION]...

Makes namespaces and pins them at DIR/{utsns,ipcns,netns,userns,cgroupns,mntns}/NAME.

  -d, --dir DIR            where the pins go
  -f, --filename NAME      their name
  -u, --uts[=host]         UTS namespace; =host: pin the caller's own instead of a new one
  -i, --ipc[=host]         IPC namespace
  -n, --net[=host]         network namespace
  -U, --user[=host]        user namespace; the others are made inside it
  -c, --cgroup[=host]      cgroup namespace
  -m, --mnt[=host]         mount namespace
      --uid-mapping MAP    users of a new user namespace: inside-outside-count[@...]
      --gid-mapping MAP    its groups
  -s, --sysctl KEY=VALUE[+KEY=VALUE]...
                           set inside the new namespaces; may be repeated
      --hostname NAME      host name of the new UTS namespace
      --loopback           set the new network namespace's lo up
      --version            print the version
      --help               print this text
";

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Pin(Box<Options>),
    Version,
    Help,
}

/// What to make and pin.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) dir: PathBuf,
    pub(crate) name: OsString,
    /// New ones.
    pub(crate) new: Vec<Kind>,
    /// The caller's own.
    pub(crate) own: Vec<Kind>,
    /// Lines as the kernel reads them.
    pub(crate) users: String,
    pub(crate) groups: String,
    pub(crate) sysctls: Vec<Sysctl>,
    pub(crate) hostname: Option<String>,
    pub(crate) loopback: bool,
}

impl Options {
    pub(crate) fn pins(&self) -> impl Iterator<Item = (Kind, PathBuf)> + '_ {
        let asked = |kind: &Kind| self.new.contains(kind) || self.own.contains(kind);
        Kind::ALL
            .into_iter()
            .filter(asked)
            .map(|kind| (kind, self.dir.join(kind.dir_name()).join(&self.name)))
    }
}

/// Reads the arguments (without the program's name).
pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Asked, String> {
    let mut args = args.into_iter();
    let mut options = Options::default();
    while let Some(arg) = args.next() {
        let text = arg.to_string_lossy().into_owned();
        match text.as_str() {
            "--help" | "-h" => return Ok(Asked::Help),
            "--version" => return Ok(Asked::Version),
            _ => {}
        }
        if let Some(long) = text.strip_prefix("--") {
            let (name, value) = match long.split_once('=') {
                Some((name, value)) => (name, Some(OsString::from(value))),
                None => (long, None),
            };
            options.long(name, value, &mut args)?;
        } else if let Some(short) = text.strip_prefix('-').filter(|rest| !rest.is_empty()) {
            options.short(short, &mut args)?;
        } else {
            return Err(format!("unexpected argument {text:?}"));
        }
    }
    options.check()?;
    Ok(Asked::Pin(Box::new(options)))
}

impl Options {
    fn long(
        &mut self,
        name: &str,
        value: Option<OsString>,
        args: &mut impl Iterator<Item = OsString>,
    ) -> Result<(), String> {
        let kind = match name {
            "uts" => Kind::Uts,
            "ipc" => Kind::Ipc,
            "net" => Kind::Net,
            "user" => Kind::User,
            "cgroup" => Kind::Cgroup,
            "mnt" => Kind::Mount,
            "loopback" => {
                self.loopback = true;
                return value.map_or(Ok(()), |_| Err("--loopback takes no value".into()));
            }
            _ => {
                let value = value.or_else(|| args.next());
                return self.value(
                    name,
                    value.ok_or_else(|| format!("--{name} needs a value"))?,
                );
            }
        };
        match value.as_ref().map(|value| value.as_bytes()) {
            None => self.add(kind, false),
            Some(b"host") => self.add(kind, true),
            Some(_) => return Err(format!("--{name} takes no value but host")),
        }
        Ok(())
    }

    fn value(&mut self, name: &str, value: OsString) -> Result<(), String> {
        let text = || {
            value
                .to_str()
                .ok_or_else(|| format!("--{name} is not UTF-8"))
        };
        match name {
            "dir" => self.dir = value.into(),
            "filename" => self.name = value,
            "uid-mapping" => self.users = mapping(text()?)?,
            "gid-mapping" => self.groups = mapping(text()?)?,
            "sysctl" => self.sysctls.extend(Sysctl::parse_list(text()?)?),
            "hostname" => self.hostname = Some(text()?.to_owned()),
            _ => return Err(format!("unknown option --{name}")),
        }
        Ok(())
    }

    /// `-uin`, `-uhost`, `-d DIR`, `-dDIR`.
    fn short(
        &mut self,
        letters: &str,
        args: &mut impl Iterator<Item = OsString>,
    ) -> Result<(), String> {
        let mut rest = letters;
        while let Some(letter) = rest.chars().next() {
            rest = &rest[letter.len_utf8()..];
            let kind = match letter {
                'u' => Kind::Uts,
                'i' => Kind::Ipc,
                'n' => Kind::Net,
                'U' => Kind::User,
                'c' => Kind::Cgroup,
                'm' => Kind::Mount,
                'd' | 'f' | 's' => {
                    let name = match letter {
                        'd' => "dir",
                        'f' => "filename",
                        _ => "sysctl",
                    };
                    let value = if rest.is_empty() {
                        args.next()
                    } else {
                        Some(rest.into())
                    };
                    return self.value(
                        name,
                        value.ok_or_else(|| format!("-{letter} needs a value"))?,
                    );
                }
                _ => return Err(format!("unknown option -{letter}")),
            };
            let host = rest == "host";
            if host {
                rest = "";
            }
            self.add(kind, host);
        }
        Ok(())
    }

    fn add(&mut self, kind: Kind, host: bool) {
        self.new.retain(|known| *known != kind);
        self.own.retain(|known| *known != kind);
        if host {
            self.own.push(kind)
        } else {
            self.new.push(kind)
        }
    }

    fn check(&self) -> Result<(), String> {
        if !self.dir.is_absolute() {
            return Err("-d needs an absolute directory".into());
        }
        let name = self.name.as_bytes();
        if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') {
            return Err("-f needs a file's name".into());
        }
        if self.new.is_empty() && self.own.is_empty() {
            return Err("no namespace is asked for".into());
        }
        let user = self.new.contains(&Kind::User);
        if user && (self.users.is_empty() || self.groups.is_empty()) {
            return Err("a user namespace needs --uid-mapping and --gid-mapping".into());
        }
        let mapped = !self.users.is_empty() || !self.groups.is_empty();
        if mapped && !user {
            return Err("mappings without a user namespace".into());
        }
        for (given, kind, what) in [
            (
                self.hostname.is_some(),
                Kind::Uts,
                "--hostname needs a new UTS namespace",
            ),
            (
                self.loopback,
                Kind::Net,
                "--loopback needs a new network namespace",
            ),
        ] {
            if given && !self.new.contains(&kind) {
                return Err(what.into());
            }
        }
        match self
            .sysctls
            .iter()
            .find(|sysctl| !self.new.iter().any(|kind| sysctl.is_of(*kind)))
        {
            Some(sysctl) => Err(format!(
                "{} belongs to none of the new namespaces",
                sysctl.key()
            )),
            None => Ok(()),
        }
    }
}

/// `0-100000-65536@...` as the kernel reads it: a line of three numbers each.
fn mapping(text: &str) -> Result<String, String> {
    let mut lines = String::new();
    for line in text.split(['@', '\n', ',']).filter(|line| !line.is_empty()) {
        let fields: Vec<u32> = line
            .split(['-', ' ', ':'])
            .map(str::parse)
            .collect::<Result<_, _>>()
            .map_err(|_| format!("bad mapping {line:?}"))?;
        let [inside, outside, count] = fields[..] else {
            return Err(format!("bad mapping {line:?}"));
        };
        lines += &format!("{inside} {outside} {count}\n");
    }
    if lines.is_empty() {
        Err("empty mapping".into())
    } else {
        Ok(lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(line: &str) -> Result<Options, String> {
        match parse(line.split_whitespace().map(Into::into))? {
            Asked::Pin(options) => Ok(*options),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn short_and_long_options_mean_the_same() {
        let long =
            run("--dir /d --filename x --uts --ipc=host --net --sysctl net.a=1 --sysctl net.b=2");
        let short = run("-d /d -fx -u -ihost -n -s net.a=1+net.b=2");
        assert!(long.is_ok() && long == short, "{long:?} {short:?}");
        assert_eq!(
            run("-d /d -f x -uin").unwrap().new,
            [Kind::Uts, Kind::Ipc, Kind::Net]
        );
        let user =
            run("-d /d -f x -U --uid-mapping=0-100000-65536@ --gid-mapping 0-1-2@5-6-7").unwrap();
        assert_eq!(
            (&*user.users, &*user.groups),
            ("0 100000 65536\n", "0 1 2\n5 6 7\n")
        );
        let pins: Vec<_> = short.unwrap().pins().map(|(_, path)| path).collect();
        assert_eq!(
            pins,
            ["/d/utsns/x", "/d/ipcns/x", "/d/netns/x"].map(PathBuf::from)
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in [
            "",
            "-d /d -f x",
            "-d d -f x -u",
            "-d /d -f a/b -u",
            "-d /d -f .. -u",
            "-d /d -f x -u --uid-mapping 0-1-1",
            "-d /d -f x -U",
            "-d /d -f x -U --uid-mapping 0-1 --gid-mapping 0-1-1",
            "-d /d -f x -U --uid-mapping 0-1--1 --gid-mapping 0-1-1",
            "-d /d -f x -u --hostname",
            "-d /d -f x -n --hostname y",
            "-d /d -f x -u --loopback",
            "-d /d -f x -u -s net.a=1",
            "-d /d -f x -z",
            "-d /d -f x --net=other",
            "-d /d -f x -u stray",
        ] {
            assert!(run(line).is_err(), "{line:?}");
        }
    }
}
