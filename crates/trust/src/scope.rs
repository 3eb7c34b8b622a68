//! The scopes of a policy that an image falls under: by its name, or by the files that it is in.

/// An image's full name: what a policy's scopes are compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name<'a> {
    /// `host[:port]/path`, normalised: `docker.io/library/busybox`.
    pub repository: &'a str,
    /// The tag, without its colon.
    pub tag: Option<&'a str>,
    /// The digest, `algorithm:hex`. With both, the digest counts.
    pub digest: Option<&'a str>,
}

impl Name<'_> {
    /// The name with tag or digest.
    pub(crate) fn full(&self) -> String {
        match (self.digest, self.tag) {
            (Some(digest), _) => format!("{}@{digest}", self.repository),
            (None, Some(tag)) => format!("{}:{tag}", self.repository),
            (None, None) => self.repository.to_owned(),
        }
    }

    /// The name with tag and digest.
    fn whole(&self) -> String {
        let tag = self.tag.map_or(String::new(), |tag| format!(":{tag}"));
        let digest = self.digest.map_or(String::new(), |it| format!("@{it}"));
        format!("{}{tag}{digest}", self.repository)
    }

    /// All scopes that it falls under, the longest first: the name, the repository, each
    /// namespace above it, the host, `*.` of each domain above the host, and `""`.
    pub(crate) fn scopes(&self) -> Vec<String> {
        let mut scopes = vec![self.full()];
        let mut rest = self.repository;
        scopes.push(rest.to_owned());
        while let Some((above, _)) = rest.rsplit_once('/') {
            rest = above;
            scopes.push(rest.to_owned());
        }
        // A port belongs to the host: `*.example.com` is not for `a.example.com:5000`, but
        // `*.example.com:5000` is.
        let mut domain = rest;
        while let Some((_, above)) = domain.split_once('.') {
            domain = above;
            scopes.push(format!("*.{domain}"));
        }
        scopes.push(String::new());
        scopes.dedup();
        scopes
    }
}

/// An image of the node itself, that no registry is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Local<'a> {
    /// In files.
    Files(Files<'a>),
    /// In another store.
    Stored(Stored<'a>),
}

/// An image in files of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Files<'a> {
    /// The transport, as a policy names it.
    pub transport: &'a str,
    /// The directory or archive: absolute, without links.
    pub path: &'a str,
    /// Which image of several, where the transport has scopes for that.
    pub which: Option<&'a str>,
}

/// An image in another store of the node, transport `containers-storage`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored<'a> {
    /// The store's driver.
    pub driver: &'a str,
    /// Its graph root: absolute, without links.
    pub root: &'a str,
    /// The name that it goes by there, unless it is meant by its ID alone.
    pub name: Option<Name<'a>>,
    /// Its ID, if it is meant by it.
    pub id: Option<&'a str>,
}

impl<'a> Local<'a> {
    /// The transport, as a policy names it.
    pub(crate) fn transport(&self) -> &'a str {
        match self {
            Self::Files(files) => files.transport,
            Self::Stored(_) => "containers-storage",
        }
    }

    /// What a signature can be for; files say no name.
    pub(crate) fn name(&self) -> Option<&Name<'a>> {
        match self {
            Self::Files(_) => None,
            Self::Stored(stored) => stored.name.as_ref(),
        }
    }

    /// The image as an error names it.
    pub(crate) fn full(&self) -> String {
        let transport = self.transport();
        match self {
            Self::Files(files) => {
                let which = files
                    .which
                    .map_or(String::new(), |which| format!(":{which}"));
                format!("{transport}:{}{which}", files.path)
            }
            Self::Stored(stored) => format!("{transport}:{}", stored.identity()),
        }
    }

    /// All scopes that it falls under, the longest first.
    pub(crate) fn scopes(&self) -> Vec<String> {
        match self {
            Self::Files(files) => files.scopes(),
            Self::Stored(stored) => stored.scopes(),
        }
    }
}

impl Files<'_> {
    /// The image, its files, each directory above them but for the root, and `""`. `docker-archive` has
    /// the last alone (containers-policy.json(5)).
    fn scopes(&self) -> Vec<String> {
        let mut scopes = Vec::new();
        if self.transport != "docker-archive" {
            scopes.extend(self.which.map(|which| format!("{}:{which}", self.path)));
            let mut rest = self.path;
            while !rest.is_empty() {
                scopes.push(rest.to_owned());
                rest = rest.rsplit_once('/').map_or("", |(above, _)| above);
            }
        }
        scopes.push(String::new());
        scopes
    }
}

impl Stored<'_> {
    fn store(&self) -> String {
        format!("[{}@{}]", self.driver, self.root)
    }

    fn identity(&self) -> String {
        let name = self.name.map_or(String::new(), |name| name.whole());
        let id = self.id.map_or(String::new(), |id| format!("@{id}"));
        format!("{}{name}{id}", self.store())
    }

    /// The image, by its name alone, by its tag alone, its repository, each namespace above it, the
    /// store, its graph root, and `""` (containers-policy.json(5), "containers-storage:").
    fn scopes(&self) -> Vec<String> {
        let store = self.store();
        let mut scopes = vec![self.identity()];
        if let Some(name) = self.name {
            scopes.push(format!("{store}{}", name.whole()));
            if let Some(tag) = name.tag {
                scopes.push(format!("{store}{}:{tag}", name.repository));
            }
            let mut rest = name.repository;
            while !rest.is_empty() {
                scopes.push(format!("{store}{rest}"));
                rest = rest.rsplit_once('/').map_or("", |(above, _)| above);
            }
        }
        scopes.extend([store, format!("[{}]", self.root), String::new()]);
        scopes.dedup();
        scopes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_go_from_the_name_to_everything() {
        let name = Name {
            repository: "a.b.io:5000/team/app",
            tag: Some("v1"),
            digest: None,
        };
        assert_eq!(
            name.scopes(),
            [
                "a.b.io:5000/team/app:v1",
                "a.b.io:5000/team/app",
                "a.b.io:5000/team",
                "a.b.io:5000",
                "*.b.io:5000",
                "*.io:5000",
                ""
            ]
        );
        let files = |transport| Files {
            transport,
            path: "/a/b",
            which: Some("v1"),
        };
        assert_eq!(files("oci").scopes(), ["/a/b:v1", "/a/b", "/a", ""]);
        assert_eq!(files("docker-archive").scopes(), [""]);
        let stored = |name, id| {
            let stored = Stored {
                driver: "vfs",
                root: "/s",
                name,
                id,
            };
            Local::Stored(stored).scopes()
        };
        let named = Name {
            repository: "a.io/b",
            tag: Some("1"),
            digest: Some("sha256:00"),
        };
        assert_eq!(
            stored(Some(named), Some("0a")),
            [
                "[vfs@/s]a.io/b:1@sha256:00@0a",
                "[vfs@/s]a.io/b:1@sha256:00",
                "[vfs@/s]a.io/b:1",
                "[vfs@/s]a.io/b",
                "[vfs@/s]a.io",
                "[vfs@/s]",
                "[/s]",
                ""
            ]
        );
        assert_eq!(
            stored(None, Some("0a")),
            ["[vfs@/s]@0a", "[vfs@/s]", "[/s]", ""]
        );
        let bare = Name {
            repository: "localhost/app",
            tag: None,
            digest: Some("sha256:00"),
        };
        assert_eq!(
            bare.scopes(),
            ["localhost/app@sha256:00", "localhost/app", "localhost", ""]
        );
    }
}
