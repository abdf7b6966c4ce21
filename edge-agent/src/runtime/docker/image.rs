//! Finds an image on the host, or has the engine fetch it under the reference that the operator wrote.
use super::{Docker, failed, incomplete};
use crate::runtime::{Done, ImageSeen, RuntimeError, meter::Meter};
use bollard::{errors::Error, models::CreateImageInfo, query_parameters as query};
use futures_util::TryStreamExt;

impl Docker {
    pub(super) async fn local_image(&self, reference: &str) -> Done<Option<ImageSeen>> {
        match self.client().await?.inspect_image(reference).await {
            Ok(found) => {
                let config = found.config.unwrap_or_default();
                let mut volumes = config.volumes.unwrap_or_default();
                volumes.sort();
                let id = found.id.ok_or_else(|| incomplete("inspect", reference))?;
                let (user, architecture) = (config.user.unwrap_or_default(), found.architecture.unwrap_or_default());
                Ok(Some(ImageSeen { id, volumes, user, architecture }))
            }
            Err(Error::DockerResponseServerError { status_code: 404 | 400, .. }) => Ok(None),
            Err(e) => Err(failed("inspect", reference, e)),
        }
    }

    pub(super) async fn local_or_pulled(&self, reference: &str, meter: &Meter) -> Done<ImageSeen> {
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
                Ok(Some(info)) => note(meter, &info),
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

/// What the engine says while it pulls: layers by id. Only what comes over the wire is counted, not the unpacking.
fn note(meter: &Meter, info: &CreateImageInfo) {
    let (Some(layer), Some(status)) = (&info.id, &info.status) else { return };
    let bytes = |n: Option<i64>| n.and_then(|n| u64::try_from(n).ok()).unwrap_or(0);
    match (status.as_str(), &info.progress_detail) {
        ("Downloading", Some(d)) => meter.part(layer, bytes(d.current), bytes(d.total)),
        ("Download complete" | "Pull complete" | "Verifying Checksum", _) => meter.whole(layer),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines as an engine 20.10 wrote them.
    #[test]
    fn a_pull_is_summed_over_its_layers() {
        let lines = r#"
            {"status":"Pulling from library/redis","id":"7"}
            {"status":"Pulling fs layer","progressDetail":{},"id":"aaa"}
            {"status":"Pulling fs layer","progressDetail":{},"id":"bbb"}
            {"status":"Downloading","progressDetail":{"current":100,"total":1000},"id":"aaa"}
            {"status":"Downloading","progressDetail":{"current":30,"total":50},"id":"bbb"}
            {"status":"Download complete","progressDetail":{},"id":"bbb"}
            {"status":"Extracting","progressDetail":{"current":1,"total":50},"id":"bbb"}
            {"status":"Digest: sha256:00"}"#;
        let meter = Meter::default();
        for line in lines.lines().filter(|l| !l.trim().is_empty()) {
            note(&meter, &serde_json::from_str(line).expect("a line"));
        }
        assert_eq!(meter.read(), (150, 1050));
    }
}
