//! Finds an image on the host, or has the engine fetch it under the reference that the operator wrote.
use super::{Docker, failed, incomplete};
use crate::runtime::{Done, ImageSeen, RuntimeError};
use bollard::{errors::Error, query_parameters as query};
use futures_util::TryStreamExt;

impl Docker {
    pub(super) async fn local_image(&self, reference: &str) -> Done<Option<ImageSeen>> {
        match self.client().await?.inspect_image(reference).await {
            Ok(found) => {
                let config = found.config.unwrap_or_default();
                let mut volumes = config.volumes.unwrap_or_default();
                volumes.sort();
                let id = found.id.ok_or_else(|| incomplete("inspect", reference))?;
                Ok(Some(ImageSeen { id, volumes, user: config.user.unwrap_or_default() }))
            }
            Err(Error::DockerResponseServerError { status_code: 404 | 400, .. }) => Ok(None),
            Err(e) => Err(failed("inspect", reference, e)),
        }
    }

    pub(super) async fn local_or_pulled(&self, reference: &str) -> Done<ImageSeen> {
        if let Some(found) = self.local_image(reference).await? {
            return Ok(found);
        }
        // Without a tag the engine would fetch every tag there is.
        let tagged = reference.contains('@') || reference.rsplit('/').next().is_some_and(|last| last.contains(':'));
        let options = query::CreateImageOptions {
            from_image: Some(reference.into()),
            tag: (!tagged).then(|| "latest".into()),
            ..Default::default()
        };
        let mut progress = std::pin::pin!(self.client().await?.create_image(Some(options), None, None));
        loop {
            match progress.try_next().await {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(e) => {
                    return Err(match failed("pull", reference, e) {
                        full @ (RuntimeError::DiskFull { .. } | RuntimeError::Unreachable(_)) => full,
                        other => RuntimeError::ImageMissing { reference: reference.into(), source: Box::new(other) },
                    });
                }
            }
        }
        self.local_image(reference).await?.ok_or_else(|| RuntimeError::ImageMissing {
            reference: reference.into(),
            source: "the engine pulled it and does not have it".into(),
        })
    }
}
