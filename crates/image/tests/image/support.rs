//! A store and files of its own for a test.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crioxide_image::{Credentials, Error, ImageId, Images, Options, PullRequest};
use serde_json::json;
use storage::Store;

/// Private directories, a store in them, and images over it.
pub(crate) struct Node {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) options: Options,
    pub(crate) store: Store,
    pub(crate) images: Images,
}

impl Node {
    /// With this `registries.conf` and a policy that accepts everything.
    pub(crate) fn new(registries: &str) -> Self {
        Self::with(registries, |_| {})
    }

    /// The same with other options.
    pub(crate) fn with(registries: &str, change: impl FnOnce(&mut Options)) -> Self {
        Self::with_layer_stores(registries, change, Vec::new())
    }

    /// The same with other stores that offer layers.
    pub(crate) fn with_layer_stores(
        registries: &str,
        change: impl FnOnce(&mut Options),
        layer_stores: Vec<storage::LayerStore>,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("registries.conf"), registries).unwrap();
        let policy = json!({"default": [{"type": "insecureAcceptAnything"}]});
        std::fs::write(path("policy.json"), policy.to_string()).unwrap();
        let mut options = Options {
            registries_conf: path("registries.conf"),
            registries_conf_dir: path("registries.conf.d"),
            registries_d: path("registries.d"),
            certs_dirs: vec![path("certs.d")],
            policy: path("policy.json"),
            auth_files: vec![path("auth.json")],
            user_agent: "crioxide-test/1".to_owned(),
            connect_timeout: Duration::from_secs(30),
            header_timeout: Duration::from_secs(30),
            pull_progress_timeout: Duration::from_secs(30),
            retry_wait: Duration::from_secs(1),
            ..Options::default()
        };
        change(&mut options);
        let store = Store::open(storage::Options {
            lock_timeout: Duration::from_secs(10),
            layer_stores,
            ..storage::Options::new(path("root"), path("run"))
        })
        .unwrap();
        let images = Images::new(options.clone(), store.clone());
        Self {
            dir,
            options,
            store,
            images,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Replaces the policy by one with these requirements for everything.
    pub(crate) fn set_policy(&self, requirements: serde_json::Value) {
        let policy = json!({ "default": requirements });
        std::fs::write(&self.options.policy, policy.to_string()).unwrap();
    }

    /// Makes `registries.d` say this of every registry.
    pub(crate) fn set_sources(&self, lines: &str) {
        std::fs::create_dir_all(&self.options.registries_d).unwrap();
        let text = format!("default-docker:\n  {lines}\n");
        std::fs::write(self.options.registries_d.join("default.yaml"), text).unwrap();
    }

    pub(crate) async fn pull(&self, reference: &str) -> Result<ImageId, Arc<Error>> {
        self.pull_with(reference, None).await
    }

    pub(crate) async fn pull_with(
        &self,
        reference: &str,
        credentials: Option<Credentials>,
    ) -> Result<ImageId, Arc<Error>> {
        let request = PullRequest {
            reference: reference.to_owned(),
            credentials,
            ..PullRequest::default()
        };
        self.images.pull(request).await
    }

    /// Entries of the store's directories for what is not finished; a failed pull leaves none.
    /// The threads that it cut off may still be removing theirs: they get twenty seconds.
    pub(crate) fn leftovers(&self) -> Vec<PathBuf> {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            let found = self.unfinished();
            if found.is_empty() || Instant::now() > end {
                return found;
            }
            std::thread::yield_now();
        }
    }

    fn unfinished(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for name in [
            "root/overlay/staging",
            "root/overlay/tempdirs",
            "root/overlay-layers/tmp",
        ] {
            let entries = std::fs::read_dir(self.path(name))
                .into_iter()
                .flatten()
                .flatten();
            for entry in entries.map(|entry| entry.path()) {
                // Lock files stay; directories with content are what counts, if they are still there.
                if std::fs::read_dir(&entry).is_ok_and(|mut inside| inside.next().is_some()) {
                    found.push(entry);
                }
            }
        }
        found
    }
}

impl Drop for Node {
    /// The store takes its own mount away with its last user, which may be a thread of a pull that
    /// was cut off and outlives the test.
    fn drop(&mut self) {
        for mount in sys::mount::beneath(self.dir.path()).unwrap() {
            sys::mount::unmount_all(&mount).unwrap();
        }
    }
}

pub(crate) fn basic(username: &str, password: &str) -> Option<Credentials> {
    Credentials::from_request(username, password, "", "", "").unwrap()
}
