//! A real registry (Debian's `docker-registry`) on loopback, and a pusher for it.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use sys::spawn::{Child, Session, Spec, spawn};

use crate::image_maker::{Blob, Index, MadeArtifact, MadeImage};

const PROGRAM: &str = "/usr/bin/docker-registry";

/// A running registry with its own directory; it ends when this is dropped.
#[derive(Debug)]
pub struct Registry {
    addr: SocketAddr,
    directory: PathBuf,
    child: Child,
}

impl Registry {
    /// Starts one that keeps its blobs and its configuration below `directory`, at a free port.
    ///
    /// # Errors
    /// The program is missing, or did not listen within ten seconds.
    pub fn start(directory: &Path) -> Result<Self> {
        Self::start_with(directory, "")
    }

    /// Starts one that speaks TLS, and asks for a client's certificate if `authority` is given.
    /// Nothing can be pushed to it: start a plain one on the same directory for that.
    ///
    /// # Errors
    /// As [`Registry::start`].
    pub fn start_tls(
        directory: &Path,
        certificate: &Path,
        key: &Path,
        authority: Option<&Path>,
    ) -> Result<Self> {
        let mut tls = format!(
            "  tls:\n    certificate: {}\n    key: {}\n",
            certificate.display(),
            key.display()
        );
        if let Some(authority) = authority {
            tls.push_str(&format!(
                "    clientcas:\n      - {}\n",
                authority.display()
            ));
        }
        Self::start_with(directory, &tls)
    }

    /// Starts one that asks for this user.
    ///
    /// # Errors
    /// As [`Registry::start`].
    pub fn start_basic(directory: &Path, user: &str, bcrypt: &str) -> Result<Self> {
        std::fs::create_dir_all(directory)?;
        let file = directory.join("htpasswd");
        std::fs::write(&file, format!("{user}:{bcrypt}\n"))?;
        let auth = format!(
            "auth:\n  htpasswd:\n    realm: test\n    path: {}\n",
            file.display()
        );
        Self::start_with(directory, &auth)
    }

    /// Starts one that asks for tokens of a service, signed by that certificate.
    ///
    /// # Errors
    /// As [`Registry::start`].
    pub fn start_token(directory: &Path, realm: &str, certificate: &Path) -> Result<Self> {
        let auth = format!(
            "auth:\n  token:\n    realm: {realm}\n    service: registry\n    issuer: issuer\n    \
             rootcertbundle: {}\n",
            certificate.display()
        );
        Self::start_with(directory, &auth)
    }

    /// `further` are lines of its configuration that follow those of `http`.
    fn start_with(directory: &Path, further: &str) -> Result<Self> {
        let addr = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        std::fs::create_dir_all(directory)?;
        let config = directory.join(format!("config-{}.yml", addr.port()));
        let root = directory.join("blobs");
        std::fs::write(
            &config,
            format!(
                "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\nstorage:\n  \
                 filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: true\nhttp:\n  \
                 addr: {addr}\n{further}",
                root.display()
            ),
        )?;
        let spec = Spec {
            args: vec!["serve".into(), config.into()],
            session: Session::Group,
            ..Spec::new(Path::new(PROGRAM))
        };
        let child = spawn(&spec).context("start docker-registry")?;
        let mut registry = Self {
            addr,
            directory: directory.to_owned(),
            child,
        };
        registry.wait_until_it_listens()?;
        Ok(registry)
    }

    /// Where it listens: `127.0.0.1:port`, the host of references to it.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The reference `addr/name:tag`.
    #[must_use]
    pub fn reference(&self, name: &str, tag: &str) -> String {
        format!("{}/{name}:{tag}", self.addr)
    }

    /// The lines of `registries.conf` that allow plain HTTP to it.
    #[must_use]
    pub fn registries_conf(&self) -> String {
        format!(
            "[[registry]]\nlocation = \"{}\"\ninsecure = true\n",
            self.addr
        )
    }

    /// The file of a blob, to damage or to remove.
    #[must_use]
    pub fn blob_file(&self, digest: &str) -> PathBuf {
        let hex = digest.trim_start_matches("sha256:");
        let blobs = self.directory.join("blobs/docker/registry/v2/blobs/sha256");
        blobs.join(&hex[..2.min(hex.len())]).join(hex).join("data")
    }

    /// Pushes an image as `name:tag`.
    ///
    /// # Errors
    /// The registry's answer.
    pub fn push(&self, name: &str, tag: &str, image: &MadeImage) -> Result<()> {
        for layer in image.layers() {
            self.push_blob(name, layer)?;
        }
        self.push_blob(name, image.config())?;
        self.push_manifest(name, tag, image.media_type(), image.manifest())
    }

    /// Pushes an artifact as `name:tag`.
    ///
    /// # Errors
    /// The registry's answer.
    pub fn push_artifact(&self, name: &str, tag: &str, artifact: &MadeArtifact) -> Result<()> {
        for blob in artifact.blobs() {
            self.push_blob(name, blob)?;
        }
        self.push_manifest(name, tag, artifact.media_type(), artifact.manifest())
    }

    /// Pushes an index as `name:tag`, and its images by digest.
    ///
    /// # Errors
    /// The registry's answer.
    pub fn push_index(&self, name: &str, tag: &str, index: &Index) -> Result<()> {
        for image in index.images() {
            self.push(name, &image.digest(), image)?;
        }
        self.push_manifest(name, tag, index.media_type(), index.manifest())
    }

    /// Pushes bytes as a manifest.
    ///
    /// # Errors
    /// The registry's answer.
    pub fn push_manifest(
        &self,
        name: &str,
        tag: &str,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<()> {
        let path = format!("/v2/{name}/manifests/{tag}");
        let answer = self.request("PUT", &path, &[("Content-Type", media_type)], bytes)?;
        ensure!(answer.status == 201, "PUT {path}: {answer:?}");
        Ok(())
    }

    /// Pushes bytes as a blob.
    ///
    /// # Errors
    /// The registry's answer.
    pub fn push_blob(&self, name: &str, blob: &Blob) -> Result<()> {
        let path = format!("/v2/{name}/blobs/uploads/");
        let begun = self.request("POST", &path, &[], b"")?;
        ensure!(begun.status == 202, "POST {path}: {begun:?}");
        let location = begun
            .header("location")
            .context("an upload without location")?;
        let path = location
            .strip_prefix(&format!("http://{}", self.addr))
            .unwrap_or(&location);
        let separator = if path.contains('?') { '&' } else { '?' };
        let path = format!("{path}{separator}digest={}", blob.digest());
        let kind = [("Content-Type", "application/octet-stream")];
        let ended = self.request("PUT", &path, &kind, blob.bytes())?;
        ensure!(ended.status == 201, "PUT {path}: {ended:?}");
        Ok(())
    }

    fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answer> {
        let mut stream = TcpStream::connect(self.addr)?;
        let mut head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n",
            self.addr,
            body.len()
        );
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes())?;
        stream.write_all(body)?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes)?;
        Answer::parse(&bytes)
    }

    fn wait_until_it_listens(&mut self) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(self.addr).is_err() {
            if let Some(status) = self.child.wait(Some(Duration::from_millis(20)))? {
                bail!("docker-registry ended: {status}");
            }
            ensure!(Instant::now() < end, "docker-registry does not listen");
        }
        Ok(())
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.child.kill_group();
        if let Err(error) = self.child.wait(Some(Duration::from_secs(10))) {
            // Not reaped: nothing that a test could do about it.
            debug_assert!(error.kind() == io::ErrorKind::NotFound, "{error}");
        }
    }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
}

impl Answer {
    fn parse(bytes: &[u8]) -> Result<Self> {
        let text = String::from_utf8_lossy(bytes);
        let (head, _) = text
            .split_once("\r\n\r\n")
            .context("an answer without end of headers")?;
        let status = head
            .split(' ')
            .nth(1)
            .context("an answer without status")?
            .parse()?;
        Ok(Self {
            status,
            head: head.to_owned(),
        })
    }

    fn header(&self, name: &str) -> Option<String> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name)
                .then(|| value.trim().to_owned())
        })
    }
}
