//! Finds an image on the host, or has the engine fetch it under the reference that the operator wrote.
use super::{Docker, failed, incomplete};
use crate::runtime::{Done, ImageSeen, RuntimeError, login::Login, meter::Meter};
use bollard::{auth::DockerCredentials, errors::Error, models::CreateImageInfo, query_parameters as query};
use bytes::BytesMut;
use futures_util::{TryStreamExt, stream};
use redforge_shared::artifact::reference_key;
use std::path::Path;
use tokio::io::AsyncReadExt as _;

/// Bytes that are handed to the engine at once.
const PIECE: usize = 256 << 10;

impl Docker {
    pub(super) async fn local_image(&self, reference: &str) -> Done<Option<ImageSeen>> {
        match self.client().await?.inspect_image(reference).await {
            Ok(found) => {
                let config = found.config.unwrap_or_default();
                let mut volumes = config.volumes.unwrap_or_default();
                volumes.sort();
                let id = found.id.ok_or_else(|| incomplete("inspect", reference))?;
                let (user, architecture) = (config.user.unwrap_or_default(), found.architecture.unwrap_or_default());
                let bytes = found.size.and_then(|n| n.try_into().ok()).unwrap_or(0);
                Ok(Some(ImageSeen { id, volumes, user, architecture, bytes }))
            }
            Err(Error::DockerResponseServerError { status_code: 404 | 400, .. }) => Ok(None),
            Err(e) => Err(failed("inspect", reference, e)),
        }
    }

    pub(super) async fn local_or_pulled(
        &self,
        reference: &str,
        login: Option<&Login>,
        meter: &Meter,
    ) -> Done<ImageSeen> {
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
        let mut progress =
            std::pin::pin!(self.client().await?.create_image(Some(options), None, login.map(credentials)));
        loop {
            match progress.try_next().await {
                Ok(Some(info)) => note(meter, &info),
                Ok(None) => break,
                Err(e) => {
                    let denied = is_denied(&e.to_string());
                    return Err(match failed("pull", reference, e) {
                        full @ (RuntimeError::DiskFull { .. } | RuntimeError::Unreachable(_)) => full,
                        other if denied => RuntimeError::Denied {
                            reference: reference.into(),
                            registry: login.map_or_else(|| registry_of(reference), |l| l.registry.clone()),
                            source: Box::new(other),
                        },
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

    pub(super) async fn load(&self, tar: &Path, reference: &str, meter: &Meter) -> Done<ImageSeen> {
        let unreadable =
            |e: std::io::Error| RuntimeError::Failed { act: "load", name: reference.into(), source: Box::new(e) };
        let file = tokio::fs::File::open(tar).await.map_err(unreadable)?;
        let total = file.metadata().await.map_err(unreadable)?.len();
        meter.part("load", 0, total);
        let pieces = stream::try_unfold(file, |mut file| async move {
            let mut piece = BytesMut::with_capacity(PIECE);
            let n = file.read_buf(&mut piece).await?;
            Ok::<_, std::io::Error>((n > 0).then(|| (piece.freeze(), file)))
        });
        let options = query::ImportImageOptions { quiet: true, ..Default::default() };
        let mut said = std::pin::pin!(self.client().await?.import_image_stream(options, pieces, None));
        let mut loaded = None;
        while let Some(info) = said.try_next().await.map_err(|e| failed("load", reference, e))? {
            loaded = info.stream.as_deref().and_then(loaded_image).or(loaded);
        }
        meter.whole("load");
        let nothing = || RuntimeError::Refused {
            act: "load",
            name: reference.into(),
            source: "the tar holds no image that the engine takes".into(),
        };
        let loaded = loaded.ok_or_else(nothing)?;
        let found = self.local_image(&loaded).await?.ok_or_else(nothing)?;
        if loaded != reference {
            self.tag(&found.id, reference).await?;
        }
        Ok(found)
    }

    pub(super) async fn tag(&self, image: &str, reference: &str) -> Done<()> {
        let (repo, tag) = split_tag(reference);
        let options = query::TagImageOptions { repo: Some(repo.into()), tag: Some(tag.into()) };
        let tagged = self.client().await?.tag_image(image, Some(options)).await;
        tagged.map_err(|e| failed("tag", reference, e))
    }

    pub(super) async fn drop_image(&self, image: &str, reference: &str) -> Done<bool> {
        let client = self.client().await?;
        let names = match client.inspect_image(image).await {
            Ok(found) => found.repo_tags.unwrap_or_default(),
            Err(Error::DockerResponseServerError { status_code: 404, .. }) => return Ok(true),
            Err(e) => return Err(failed("inspect", image, e)),
        };
        let ours = names.iter().find(|name| reference_key(name) == reference_key(reference));
        let target = match (ours, names.is_empty()) {
            (Some(name), _) => name.as_str(),
            (None, true) => image,
            // Others gave it their names: it is theirs now.
            (None, false) => return Ok(true),
        };
        // Never by force: what a container uses stays, be it ours or not.
        match client.remove_image(target, None::<query::RemoveImageOptions>, None).await {
            Ok(_) | Err(Error::DockerResponseServerError { status_code: 404, .. }) => Ok(true),
            Err(Error::DockerResponseServerError { status_code: 409, .. }) => Ok(false),
            Err(e) => Err(failed("remove", image, e)),
        }
    }
}

/// As the engine hands it on to the registry.
pub(super) fn credentials(login: &Login) -> DockerCredentials {
    DockerCredentials {
        username: Some(login.username.clone()),
        password: Some(login.password.clone()),
        serveraddress: Some(login.registry.clone()),
        ..DockerCredentials::default()
    }
}

/// The engine hands on the registry's refusal as a text; the texts are those of 20.10 to 29. One who asks Docker Hub for what
/// it does not have is told that they may have to log in: that says nothing.
fn is_denied(text: &str) -> bool {
    let says = |words: &str| text.contains(words);
    let shut = ["unauthorized", "authentication required", "no basic auth credentials", "access denied", "denied:"];
    shut.iter().any(|words| says(words)) && !says("repository does not exist")
}

fn registry_of(reference: &str) -> String {
    let named = reference.split_once('/').map(|(host, _)| host).filter(|h| h.contains(['.', ':']));
    named.unwrap_or("docker.io").to_owned()
}

/// What the engine says that it loaded: a reference or an id.
fn loaded_image(line: &str) -> Option<String> {
    let line = line.trim();
    let name = line.strip_prefix("Loaded image: ").or_else(|| line.strip_prefix("Loaded image ID: "))?;
    Some(name.trim().to_owned()).filter(|n| !n.is_empty())
}

/// A reference as name and tag.
fn split_tag(reference: &str) -> (&str, &str) {
    match reference.rsplit_once(':') {
        Some((repo, tag)) if !tag.contains('/') => (repo, tag),
        _ => (reference, "latest"),
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

    #[test]
    fn what_was_loaded_is_read_out_of_the_engines_words() {
        assert_eq!(loaded_image("Loaded image: redforge.local/press:1\n").as_deref(), Some("redforge.local/press:1"));
        assert_eq!(loaded_image("Loaded image ID: sha256:00ff\n").as_deref(), Some("sha256:00ff"));
        assert_eq!(loaded_image("{\"progress\"}"), None);
        assert_eq!(split_tag("host:5000/a/b"), ("host:5000/a/b", "latest"));
        assert_eq!(split_tag("host:5000/a/b:1.2"), ("host:5000/a/b", "1.2"));
    }

    /// Words of engines 20.10 and 26.
    #[test]
    fn a_shut_door_is_told_from_an_image_that_is_not_there() {
        let denied = |text: &str| is_denied(text);
        assert!(denied("Head \"http://127.0.0.1:5000/v2/a/manifests/1\": no basic auth credentials"));
        assert!(denied("unauthorized: authentication required"));
        assert!(denied("denied: requested access to the resource is denied"));
        assert!(!denied("manifest for 127.0.0.1:5000/a:1 not found: manifest unknown: manifest unknown"));
        assert!(!denied(
            "pull access denied for nobody/nothing, repository does not exist or may require 'docker login': denied: \
             requested access to the resource is denied"
        ));
        assert_eq!((registry_of("a/b:1"), registry_of("h:5000/b")), ("docker.io".into(), "h:5000".into()));
    }

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
