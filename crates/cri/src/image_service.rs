//! The service `runtime.v1.ImageService`.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use image::{Artifact, Credentials, Image, Images, PullRequest, User};
use pods::Pods;
use serde_json::json;
use sys::pool::Pool;
use tonic::{Request, Response, Status};

use crate::checked::{invalid, required};
use crate::errors::{image_status, status};
use crate::pieces::{self, Answers};
use crate::runtime_service::info;
use crate::sandboxes::nanos;
use crate::v1;

/// Answers the calls about images.
#[derive(Debug, Clone)]
pub struct ImageService {
    images: Arc<Images>,
    store: storage::Store,
    /// Knows which images are mounted in containers, and what the writable layers take.
    pods: Pods,
    /// Reads of the store's index, which may have to be loaded again.
    pool: Pool,
}

/// What images and writable layers are told to be on: one place, or the kubelet would look after
/// two file systems.
pub(crate) fn mountpoint(driver: storage::Driver, root: &Path) -> String {
    table(driver, root, "images")
}

fn table(driver: storage::Driver, root: &Path, table: &str) -> String {
    let table = root.join(format!("{}-{table}", driver.name()));
    table.to_string_lossy().into_owned()
}

type Answer<T> = Result<Response<T>, Status>;

impl ImageService {
    /// Makes the service.
    #[must_use]
    pub fn new(images: Arc<Images>, store: storage::Store, pods: Pods) -> Self {
        Self {
            images,
            store,
            pods,
            pool: Pool::new("images", 4),
        }
    }

    async fn find(&self, name: String) -> Result<Option<Image>, Status> {
        self.images
            .find(&name)
            .await
            .map_err(|error| image_status(&error))
    }

    /// All images, or the one that a filter names.
    async fn matching(&self, filter: Option<v1::ImageFilter>) -> Result<Vec<v1::Image>, Status> {
        let wanted = filter
            .and_then(|filter| filter.image)
            .map(|image| image.image);
        let images = match wanted.filter(|name| !name.is_empty()) {
            Some(name) => match self.find(name.clone()).await? {
                Some(image) => vec![on_wire(&image)],
                None => {
                    let found = self.find_artifact(&name).await?;
                    found.iter().map(artifact_on_wire).collect()
                }
            },
            None => {
                let images = self.images.list().await;
                let images = images.map_err(|error| image_status(&error))?;
                let artifacts = self.images.artifacts().await.unwrap_or_else(|error| {
                    not_read(&error);
                    Vec::new()
                });
                let artifacts = artifacts.iter().map(artifact_on_wire);
                images.iter().map(on_wire).chain(artifacts).collect()
            }
        };
        Ok(images)
    }

    async fn find_artifact(&self, name: &str) -> Result<Option<Artifact>, Status> {
        match self.images.find_artifact(name).await {
            Err(error @ image::Error::Storage(_)) => {
                not_read(&error);
                Ok(None)
            }
            found => found.map_err(|error| image_status(&error)),
        }
    }
}

fn on_wire(image: &Image) -> v1::Image {
    let (uid, username) = match &image.user {
        User::None => (None, String::new()),
        User::Uid(uid) => (Some(i64::from(*uid)), String::new()),
        User::Name(name) => (None, name.clone()),
    };
    v1::Image {
        id: image.id.to_string(),
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        size: image.size,
        uid: uid.map(|value| v1::Int64Value { value }),
        username,
        spec: Some(v1::ImageSpec {
            image: image.id.to_string(),
            annotations: image.annotations.clone().into_iter().collect(),
            ..Default::default()
        }),
        pinned: image.pinned,
    }
}

/// Artifacts that can't be read must not keep the kubelet from the images.
fn not_read(error: &image::Error) {
    tracing::warn!(%error, "artifacts are not read");
}

/// An artifact among the images: it has no user.
fn artifact_on_wire(artifact: &Artifact) -> v1::Image {
    v1::Image {
        id: artifact.id.to_string(),
        repo_tags: artifact.repo_tags.clone(),
        repo_digests: artifact.repo_digests.clone(),
        size: artifact.size,
        spec: Some(v1::ImageSpec {
            image: artifact.id.to_string(),
            annotations: artifact.annotations.clone().into_iter().collect(),
            ..Default::default()
        }),
        pinned: artifact.pinned,
        ..Default::default()
    }
}

fn credentials(auth: Option<v1::AuthConfig>) -> Result<Option<Credentials>, Status> {
    let Some(auth) = auth else { return Ok(None) };
    Credentials::from_request(
        &auth.username,
        &auth.password,
        &auth.auth,
        &auth.identity_token,
        &auth.registry_token,
    )
    .map_err(|wrong| invalid("auth", wrong))
}

#[tonic::async_trait]
impl v1::image_service_server::ImageService for ImageService {
    async fn list_images(
        &self,
        request: Request<v1::ListImagesRequest>,
    ) -> Answer<v1::ListImagesResponse> {
        let images = self.matching(request.into_inner().filter).await?;
        Ok(Response::new(v1::ListImagesResponse { images }))
    }

    type StreamImagesStream = Answers<v1::StreamImagesResponse>;
    async fn stream_images(
        &self,
        request: Request<v1::StreamImagesRequest>,
    ) -> Answer<Self::StreamImagesStream> {
        let images = self.matching(request.into_inner().filter).await?;
        pieces::answer(images, |images| v1::StreamImagesResponse { images })
    }

    async fn image_status(
        &self,
        request: Request<v1::ImageStatusRequest>,
    ) -> Answer<v1::ImageStatusResponse> {
        let request = request.into_inner();
        let name = required("image", request.image)?.image;
        if name.is_empty() {
            return Err(invalid("image.image", "is empty"));
        }
        let Some(image) = self.find(name.clone()).await? else {
            let artifact = self.find_artifact(&name).await?;
            return Ok(Response::new(v1::ImageStatusResponse {
                image: artifact.as_ref().map(artifact_on_wire),
                ..Default::default()
            }));
        };
        let info = if request.verbose {
            let config = self.images.configuration(&image.id).await;
            let config = config.map_err(|error| image_status(&error))?;
            let labels = &image.config.labels;
            info(&match labels.is_empty() {
                true => json!({"imageSpec": config}),
                false => json!({"imageSpec": config, "labels": labels}),
            })
        } else {
            Default::default()
        };
        Ok(Response::new(v1::ImageStatusResponse {
            image: Some(on_wire(&image)),
            info,
        }))
    }

    async fn pull_image(
        &self,
        request: Request<v1::PullImageRequest>,
    ) -> Answer<v1::PullImageResponse> {
        let request = request.into_inner();
        let spec = required("image", request.image)?;
        let reference = spec.image;
        if reference.is_empty() {
            return Err(invalid("image.image", "is empty"));
        }
        // An image is the same for every handler, but one that is not there can't be meant.
        let handler = self.pods.handlers().get(&spec.runtime_handler);
        handler.map_err(|unknown| invalid("image.runtime_handler", unknown))?;
        let pod = request.sandbox_config.unwrap_or_default();
        let parent = pod.linux.unwrap_or_default().cgroup_parent;
        let place = self.pods.pull_place(&parent);
        let pull = PullRequest {
            reference,
            credentials: credentials(request.auth)?,
            namespace: pod.metadata.unwrap_or_default().namespace,
            place: place.map_err(|error| status(&error))?,
            ..PullRequest::default()
        };
        let pulled = self
            .images
            .pull(pull)
            .await
            .map_err(|error| image_status(&error))?;
        Ok(Response::new(v1::PullImageResponse {
            image_ref: pulled.to_string(),
        }))
    }

    async fn remove_image(
        &self,
        request: Request<v1::RemoveImageRequest>,
    ) -> Answer<v1::RemoveImageResponse> {
        let name = required("image", request.into_inner().image)?.image;
        if name.is_empty() {
            return Err(invalid("image.image", "is empty"));
        }
        let mounted = self.pods.snapshot().image_volumes();
        self.images
            .remove(&name, mounted)
            .await
            .map_err(|error| image_status(&error))?;
        Ok(Response::new(v1::RemoveImageResponse {}))
    }

    async fn image_fs_info(
        &self,
        _: Request<v1::ImageFsInfoRequest>,
    ) -> Answer<v1::ImageFsInfoResponse> {
        let store = self.store.clone();
        let usage = self.pool.run(move || store.usage()).await;
        let usage = usage.map_err(|error| image_status(&image::Error::from(error)))?;
        let layers = self.pods.layers_usage().await;
        // As CRI-O names them: containers apart only where images have a root of their own.
        let (root, image_root) = (self.store.root(), self.store.image_root());
        let driver = self.store.driver();
        let containers = if root == image_root {
            mountpoint(driver, root)
        } else {
            table(driver, root, "containers")
        };
        let filesystem = |mountpoint, bytes, inodes| v1::FilesystemUsage {
            timestamp: nanos(SystemTime::now()),
            fs_id: Some(v1::FilesystemIdentifier { mountpoint }),
            used_bytes: Some(v1::UInt64Value { value: bytes }),
            inodes_used: Some(v1::UInt64Value { value: inodes }),
        };
        Ok(Response::new(v1::ImageFsInfoResponse {
            image_filesystems: vec![filesystem(
                mountpoint(driver, image_root),
                usage.bytes,
                usage.inodes,
            )],
            container_filesystems: vec![filesystem(containers, layers.bytes, layers.inodes)],
        }))
    }
}
