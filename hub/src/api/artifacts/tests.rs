//! Images and models from the first byte to the host's document, and what is refused on the way.
use super::{super::tests::bench, *};

const OPERATOR: &str = "ops";

fn caller(role: Role) -> Caller {
    Caller { name: OPERATOR.into(), role }
}

struct Shelf(super::super::tests::Bench);

impl Shelf {
    async fn upload(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let request = pb::UploadBlobRequest {
            digest: digest.0.to_vec().into(),
            size_bytes: bytes.len() as u64,
            data: bytes.to_vec().into(),
            ..Default::default()
        };
        let said = self.0.api.upload_blob(&caller(Role::Operator), request).await.expect("taken");
        assert!(said.complete && said.received_bytes == bytes.len() as u64, "{said:?}");
        digest
    }

    async fn create(&self, kind: pb::ArtifactKind, reference: &str, digest: Digest) -> Result<bool, ApiError> {
        let image_id = if kind == pb::ArtifactKind::Image { Digest::of(b"config").to_string() } else { String::new() };
        let request = pb::CreateArtifactRequest {
            kind: kind.into(),
            reference: reference.into(),
            digest: digest.0.to_vec().into(),
            image_id,
        };
        self.0.api.create_artifact(&caller(Role::Operator), request).await.map(|r| r.changed)
    }

    async fn list(&self) -> Vec<pb::Artifact> {
        let request = pb::ListArtifactsRequest {};
        self.0.api.list_artifacts(&caller(Role::Viewer), request).await.expect("lists").artifacts
    }

    async fn delete(&self, digest: Digest) -> Result<u64, ApiError> {
        let request = pb::DeleteArtifactRequest { name: format!("artifacts/{}", digest.hex()) };
        self.0.api.delete_artifact(&caller(Role::Operator), request).await.map(|r| r.freed_bytes)
    }
}

#[tokio::test]
async fn an_image_is_named_by_its_reference_and_the_newest_is_what_hosts_get() {
    let shelf = Shelf(bench(None).await);
    let one = shelf.upload(b"first tar").await;
    let two = shelf.upload(b"second tar, longer").await;
    let image = pb::ArtifactKind::Image;
    assert!(shelf.create(image, "docker.io/library/press:1", one).await.expect("made"));
    assert!(!shelf.create(image, "press:1", one).await.expect("there"), "the same again is no change");
    shelf.0.clock.advance(std::time::Duration::from_secs(1));
    assert!(shelf.create(image, "press:1", two).await.expect("made"));
    let all = shelf.list().await;
    let said: Vec<_> = all.iter().map(|a| (a.reference.as_str(), a.newest, a.size_bytes)).collect();
    assert_eq!(said, [("press:1", true, 18), ("press:1", false, 9)]);
    // The older one again: it is the newest then.
    shelf.0.clock.advance(std::time::Duration::from_secs(1));
    assert!(shelf.create(image, "press:1", one).await.expect("made"));
    assert_eq!(shelf.list().await[0].name, format!("artifacts/{}", one.hex()));
    assert_eq!(shelf.delete(two).await.expect("nobody needs it"), 18);
    let e = shelf.delete(two).await.expect_err("gone");
    assert!(matches!(e, ApiError::NotFound(_)), "{e}");
    assert_eq!(shelf.list().await.len(), 1);
}

#[tokio::test]
async fn a_model_is_made_of_blobs_that_are_there_and_fit_its_manifest() {
    let shelf = Shelf(bench(None).await);
    let (config, layer) = (shelf.upload(b"{}").await, Digest::of(b"weights"));
    let manifest =
        format!(r#"{{"config":{{"digest":"{config}","size":2}},"layers":[{{"digest":"{layer}","size":7}}]}}"#);
    let digest = shelf.upload(manifest.as_bytes()).await;
    let model = pb::ArtifactKind::Model;
    let e = shelf.create(model, "m", digest).await.expect_err("a layer lacks");
    assert!(e.to_string().contains(&layer.to_string()), "{e}");
    shelf.upload(b"weights").await;
    assert!(shelf.create(model, "m", digest).await.expect("made"));
    assert_eq!(shelf.list().await[0].size_bytes, manifest.len() as u64 + 9);
    // Another manifest that lies about a size, and bytes that are no manifest.
    let liar = shelf.upload(manifest.replace(":7", ":8").as_bytes()).await;
    let e = shelf.create(model, "m", liar).await.expect_err("sizes differ");
    assert!(e.to_string().contains("the manifest says 8"), "{e}");
    let e = shelf.create(model, "m", layer).await.expect_err("no manifest");
    assert!(e.to_string().contains("not understood"), "{e}");
    // A blob that another model names too stays.
    let second = manifest.replace("\"layers\"", "\"x\":1,\"layers\"");
    let second = shelf.upload(second.as_bytes()).await;
    assert!(shelf.create(model, "n", second).await.expect("made"));
    assert_eq!(shelf.delete(digest).await.expect("nobody needs it"), manifest.len() as u64);
}

#[tokio::test]
async fn who_may_not_or_says_it_wrong_is_refused_by_name() {
    let shelf = Shelf(bench(None).await);
    let digest = shelf.upload(b"tar").await;
    let api = &shelf.0.api;
    let upload = |digest: &[u8], data: usize, size_bytes| pb::UploadBlobRequest {
        digest: digest.to_vec().into(),
        size_bytes,
        data: vec![0; data].into(),
        ..Default::default()
    };
    for (request, field) in [
        (upload(b"short", 1, 1), "digest"),
        (upload(&digest.0, UPLOAD_CHUNK_BYTES + 1, 5), "data"),
        (upload(&Digest::of(b"none").0, 0, 0), "0 bytes"),
        (upload(&Digest::of(b"large").0, 0, 1 << 60), "allowed are 1 to"),
    ] {
        let e = api.upload_blob(&caller(Role::Operator), request).await.expect_err(field);
        assert!(e.to_string().contains(field), "{field}: {e}");
    }
    let e = api.upload_blob(&caller(Role::Viewer), upload(&digest.0, 1, 1)).await.expect_err("a viewer");
    assert!(matches!(e, ApiError::Denied { .. }), "{e}");
    for (kind, reference, digest, problem) in [
        (pb::ArtifactKind::Image, "has space", digest, "reference"),
        (pb::ArtifactKind::Image, "", digest, "reference"),
        (pb::ArtifactKind::Unspecified, "a:1", digest, "kind"),
        (pb::ArtifactKind::Image, "a:1", Digest::of(b"never sent"), "upload it first"),
    ] {
        let e = shelf.create(kind, reference, digest).await.expect_err(problem);
        assert!(e.to_string().contains(problem), "{problem}: {e}");
    }
    let request = pb::DeleteArtifactRequest { name: "artifacts/../../x".into() };
    assert!(api.delete_artifact(&caller(Role::Operator), request).await.is_err());
}
