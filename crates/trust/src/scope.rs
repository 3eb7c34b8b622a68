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

impl Files<'_> {
    pub(crate) fn full(&self) -> String {
        let which = self
            .which
            .map_or(String::new(), |which| format!(":{which}"));
        format!("{}:{}{which}", self.transport, self.path)
    }

    /// All scopes that it falls under, the longest first: the image, its files, each directory
    /// above them but for the root, and `""`. `docker-archive` has the last alone
    /// (containers-policy.json(5)).
    pub(crate) fn scopes(&self) -> Vec<String> {
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
