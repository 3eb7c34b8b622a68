//! Signers of images, by real tools: GnuPG for simple signing, OpenSSL for what cosign, Fulcio and
//! Rekor make.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sys::spawn::{Program, run};
use tempfile::TempDir;

const GPG: &str = "/usr/bin/gpg";
const GPGCONF: &str = "/usr/bin/gpgconf";
const OPENSSL: &str = "/usr/bin/openssl";

/// The payload of a signature: `kind` is `atomic container signature` or `cosign container image
/// signature`.
#[must_use]
pub fn payload(kind: &str, reference: &str, digest: &str) -> Vec<u8> {
    let text = format!(
        r#"{{"critical":{{"identity":{{"docker-reference":"{reference}"}},"image":{{"docker-manifest-digest":"{digest}"}},"type":"{kind}"}},"optional":{{"creator":"test","timestamp":1700000000}}}}"#
    );
    text.into_bytes()
}

/// Runs OpenSSL in a directory; what it wrote.
///
/// # Errors
/// It fails; its words are in the text.
pub fn openssl(directory: &Path, args: &str, stdin: &[u8]) -> Result<Vec<u8>> {
    let program = Program {
        cwd: Some(directory.to_owned()),
        ..Program::new(OPENSSL, Duration::from_secs(60))
    };
    let output = run(&program.args(args.split_whitespace()).stdin(stdin))?;
    let words = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "openssl {args}: {words}");
    Ok(output.stdout)
}

/// A GnuPG home of its own; its agent ends when this is dropped.
#[derive(Debug)]
pub struct Gpg {
    home: TempDir,
}

impl Gpg {
    /// An empty one.
    ///
    /// # Errors
    /// No directory can be made.
    pub fn new() -> Result<Self> {
        let home = TempDir::with_prefix("gpg-")?;
        std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o700))?;
        Ok(Self { home })
    }

    /// The directory, for `GNUPGHOME`.
    #[must_use]
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Runs `gpg` with a home of this and no passphrase.
    ///
    /// # Errors
    /// It fails.
    pub fn run(&self, args: &[&str], stdin: &[u8]) -> Result<Vec<u8>> {
        let fixed = [
            "--batch",
            "--yes",
            "--no-tty",
            "--pinentry-mode",
            "loopback",
            "--passphrase",
            "",
        ];
        let program = Program::new(GPG, Duration::from_secs(120))
            .args(fixed)
            .args(args.iter().copied())
            .env("GNUPGHOME", self.home.path())
            .stdin(stdin);
        let output = run(&program)?;
        let words = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "gpg {args:?}: {words}");
        Ok(output.stdout)
    }

    /// Makes a key for `user` that signs, and lasts as long as `expires` says (`never`, `2d`).
    ///
    /// # Errors
    /// As [`Gpg::run`].
    pub fn key(&self, user: &str, algorithm: &str, expires: &str) -> Result<()> {
        self.key_with(&[], user, algorithm, expires)
    }

    /// The same, with options before the command.
    ///
    /// # Errors
    /// As [`Gpg::run`].
    pub fn key_with(
        &self,
        options: &[&str],
        user: &str,
        algorithm: &str,
        expires: &str,
    ) -> Result<()> {
        let command = [
            "--quick-generate-key",
            user,
            algorithm,
            "sign,cert",
            expires,
        ];
        self.run(&[options, &command].concat(), b"").map(drop)
    }

    /// The public keys of `user`, without armor.
    ///
    /// # Errors
    /// As [`Gpg::run`].
    pub fn export(&self, user: &str) -> Result<Vec<u8>> {
        self.run(&["--export", user], b"")
    }

    /// A message that has and signs `content`.
    ///
    /// # Errors
    /// As [`Gpg::run`].
    pub fn sign(&self, user: &str, content: &[u8]) -> Result<Vec<u8>> {
        self.sign_with(&[], user, content)
    }

    /// The same, with options before the command.
    ///
    /// # Errors
    /// As [`Gpg::run`].
    pub fn sign_with(&self, options: &[&str], user: &str, content: &[u8]) -> Result<Vec<u8>> {
        let command = ["--local-user", user, "--output", "-", "--sign"];
        self.run(&[options, &command].concat(), content)
    }

    /// Signs an image's manifest as `skopeo` does.
    ///
    /// # Errors
    /// As [`Gpg::run`].
    pub fn sign_image(&self, user: &str, reference: &str, digest: &str) -> Result<Vec<u8>> {
        self.sign(
            user,
            &payload("atomic container signature", reference, digest),
        )
    }

    /// The fingerprint of `user`'s primary key.
    ///
    /// # Errors
    /// As [`Gpg::run`].
    pub fn fingerprint(&self, user: &str) -> Result<String> {
        let list = self.run(&["--with-colons", "--list-keys", user], b"")?;
        let list = String::from_utf8(list)?;
        let line = list.lines().find(|line| line.starts_with("fpr:"));
        let print = line.and_then(|line| line.split(':').nth(9));
        Ok(print.context("gpg lists no fingerprint")?.to_owned())
    }

    /// Revokes `user`'s key, by the certificate that was made with it.
    ///
    /// # Errors
    /// As [`Gpg::run`]; there is no certificate.
    pub fn revoke(&self, user: &str) -> Result<()> {
        let name = format!("openpgp-revocs.d/{}.rev", self.fingerprint(user)?);
        let text = std::fs::read_to_string(self.home.path().join(name))?;
        // A colon is in front of it, against importing it by mistake.
        let text = text.replace(":-----BEGIN", "-----BEGIN");
        self.run(&["--import"], text.as_bytes()).map(drop)
    }
}

impl Drop for Gpg {
    fn drop(&mut self) {
        let program = Program::new(GPGCONF, Duration::from_secs(10))
            .args(["--kill", "all"])
            .env("GNUPGHOME", self.home.path());
        // A test that ends can do no more about it; the agent ends once its directory is gone.
        drop(run(&program));
    }
}

/// Keys and certificates by OpenSSL, in a directory of their own.
#[derive(Debug)]
pub struct OpenSsl {
    dir: TempDir,
}

/// Times of a certificate, as OpenSSL writes them: `20300102030405Z`.
#[derive(Clone, Copy, Debug)]
pub struct Validity {
    /// Not valid before.
    pub from: &'static str,
    /// Not valid after.
    pub until: &'static str,
}

/// For most tests: from 2020 to 2090.
pub const LONG: Validity = Validity {
    from: "20200101000000Z",
    until: "20900101000000Z",
};

impl OpenSsl {
    /// An empty one.
    ///
    /// # Errors
    /// No directory can be made.
    pub fn new() -> Result<Self> {
        Ok(Self {
            dir: TempDir::with_prefix("openssl-")?,
        })
    }

    /// The path of one of its files.
    #[must_use]
    pub fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    /// The content of one of its files.
    ///
    /// # Errors
    /// It can't be read.
    pub fn read(&self, file: &str) -> Result<String> {
        Ok(std::fs::read_to_string(self.path(file))?)
    }

    fn run(&self, args: &str, stdin: &[u8]) -> Result<Vec<u8>> {
        openssl(self.dir.path(), args, stdin)
    }

    /// Makes `NAME.key` and `NAME.pub`; `kind` is what follows `genpkey`.
    ///
    /// # Errors
    /// OpenSSL fails.
    pub fn key(&self, name: &str, kind: &str) -> Result<()> {
        self.run(&format!("genpkey {kind} -out {name}.key"), b"")?;
        self.run(&format!("pkey -in {name}.key -pubout -out {name}.pub"), b"")?;
        Ok(())
    }

    /// Makes keys on the curve P-256, as cosign does.
    ///
    /// # Errors
    /// OpenSSL fails.
    pub fn ec_key(&self, name: &str) -> Result<()> {
        self.key(name, "-algorithm EC -pkeyopt ec_paramgen_curve:P-256")
    }

    /// A signature by `NAME.key` over the SHA-256 digest of `content`.
    ///
    /// # Errors
    /// OpenSSL fails.
    pub fn sign(&self, name: &str, content: &[u8]) -> Result<Vec<u8>> {
        self.run(&format!("dgst -sha256 -sign {name}.key"), content)
    }

    /// The SHA-256 digest of `content`, in hexadecimal digits.
    ///
    /// # Errors
    /// OpenSSL fails.
    pub fn sha256(&self, content: &[u8]) -> Result<String> {
        let said = String::from_utf8(self.run("dgst -sha256 -r", content)?)?;
        let digest = said.split_whitespace().next();
        Ok(digest.context("openssl says no digest")?.to_owned())
    }

    /// A signature by `NAME.key`, of Ed25519, over `content` itself.
    ///
    /// # Errors
    /// OpenSSL fails.
    pub fn sign_raw(&self, name: &str, content: &[u8]) -> Result<Vec<u8>> {
        std::fs::write(self.path("content"), content)?;
        self.run(
            &format!("pkeyutl -sign -rawin -inkey {name}.key -in content"),
            b"",
        )
    }

    /// Makes a certificate authority, `NAME.crt`, with a key of its own.
    ///
    /// # Errors
    /// OpenSSL fails.
    pub fn authority(&self, name: &str, validity: Validity) -> Result<()> {
        self.ec_key(name)?;
        let extensions = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\n";
        self.issue(name, None, extensions, validity)
    }

    /// Makes `NAME.crt` for `NAME.key`, issued by `issuer` (by itself if `None`), with lines of
    /// extensions.
    ///
    /// # Errors
    /// OpenSSL fails.
    pub fn issue(
        &self,
        name: &str,
        issuer: Option<&str>,
        extensions: &str,
        validity: Validity,
    ) -> Result<()> {
        let config = "[ca]\ndefault_ca=own\n[own]\ndatabase=index\nrand_serial=yes\nnew_certs_dir=.\n\
            default_md=sha256\npolicy=any\nunique_subject=no\nemail_in_dn=no\n[any]\ncommonName=optional\n\
            [req]\ndistinguished_name=dn\n[dn]\n";
        std::fs::write(self.path("ca.cnf"), config)?;
        std::fs::write(self.path("index"), "")?;
        std::fs::write(self.path("extensions"), extensions)?;
        self.run(
            &format!("req -new -config ca.cnf -key {name}.key -subj /CN={name} -out {name}.csr"),
            b"",
        )?;
        let by = match issuer {
            Some(issuer) => format!("-cert {issuer}.crt -keyfile {issuer}.key"),
            None => format!("-selfsign -keyfile {name}.key"),
        };
        let Validity { from, until } = validity;
        let command = format!(
            "ca -batch -notext -config ca.cnf {by} -in {name}.csr -extfile extensions \
             -startdate {from} -enddate {until} -out {name}.crt"
        );
        self.run(&command, b"").map(drop)
    }
}
