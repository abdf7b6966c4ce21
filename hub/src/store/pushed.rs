//! Images and models that operators pushed: rows only, the blobs lie in the artifact store.
use super::{Act, Store, StoreError, changes::Changes};
use redforge_shared::{
    desired::{Blob, ImageArtifact},
    ids::Digest,
};
use serde_json::Value;
use sqlx::{PgExecutor, types::Json};
use std::collections::BTreeMap;
use time::OffsetDateTime;

/// Most rows of a list.
const LIST: i64 = 1000;

/// One pushed image or model.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct PushedRow {
    /// `image` or `model`.
    pub kind: String,
    pub reference: String,
    pub digest: Vec<u8>,
    pub image_id: String,
    /// The one named by `digest` first.
    pub blobs: Json<Vec<Blob>>,
    pub created_at: OffsetDateTime,
    pub created_by: String,
    /// No newer one of its kind has the same reference.
    pub newest: bool,
}

/// What an instance says about images and models.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct Needs {
    pub host: String,
    pub instance: String,
    pub image: String,
    /// The section `ollama` of its spec.
    pub ollama: Option<Json<Value>>,
}

/// What hosts can be given, for rendering.
#[derive(Clone, Debug, Default)]
pub struct Given {
    /// The newest image of each reference.
    pub images: BTreeMap<String, ImageArtifact>,
    /// Blobs of each model by its digest.
    pub models: BTreeMap<Digest, Vec<Blob>>,
}

const NEWEST: &str = "SELECT p.*, NOT EXISTS (SELECT 1 FROM pushed_artifact o WHERE o.kind = p.kind \
    AND o.reference = p.reference AND (o.created_at, o.digest) > (p.created_at, p.digest)) AS newest \
    FROM pushed_artifact p";

impl Store {
    /// Everything that was pushed.
    pub async fn list_pushed(&self) -> Result<Vec<PushedRow>, StoreError> {
        let sql = format!("{NEWEST} ORDER BY kind, reference, created_at DESC LIMIT {LIST}");
        sqlx::query_as(sqlx::AssertSqlSafe(sql)).fetch_all(&self.pool).await.act("listing artifacts")
    }

    /// Digests of every blob that an image or a model names.
    pub async fn pushed_blobs(&self) -> Result<Vec<Digest>, StoreError> {
        let all: Vec<Json<Vec<Blob>>> = sqlx::query_scalar("SELECT blobs FROM pushed_artifact")
            .fetch_all(&self.pool)
            .await
            .act("reading the pushed blobs")?;
        Ok(all.into_iter().flat_map(|b| b.0).map(|b| b.digest).collect())
    }

    /// What every instance says about images and models.
    pub async fn artifact_needs(&self) -> Result<Vec<Needs>, StoreError> {
        sqlx::query_as(
            "SELECT h.name AS host, i.name AS instance, i.spec ->> 'image' AS image, i.spec -> 'ollama' AS ollama \
             FROM instance i JOIN host h ON h.id = i.host_id ORDER BY h.name, i.name",
        )
        .fetch_all(&self.pool)
        .await
        .act("reading what instances need")
    }
}

/// What hosts can be given, as it stands for this executor.
pub(super) async fn given(executor: impl PgExecutor<'_>) -> Result<Given, StoreError> {
    let act = "reading the pushed artifacts";
    let rows: Vec<(String, String, Vec<u8>, String, Json<Vec<Blob>>)> = sqlx::query_as(
        "SELECT kind, reference, digest, image_id, blobs FROM pushed_artifact ORDER BY created_at, digest",
    )
    .fetch_all(executor)
    .await
    .act(act)?;
    let mut given = Given::default();
    for (kind, reference, digest, image_id, blobs) in rows {
        let digest = Digest::try_from(&digest[..]).map_err(|e| StoreError::Corrupt {
            act,
            what: "digest",
            problem: e.to_string(),
        })?;
        match (kind.as_str(), blobs.0.first()) {
            // The newest comes last.
            ("image", Some(tar)) => drop(given.images.insert(reference, ImageArtifact { tar: *tar, image_id })),
            ("model", _) => drop(given.models.insert(digest, blobs.0)),
            _ => {}
        }
    }
    Ok(given)
}

/// An image or model to be made known.
#[derive(Clone, Debug)]
pub struct NewPushed<'a> {
    pub kind: &'static str,
    pub reference: &'a str,
    pub digest: Digest,
    pub image_id: &'a str,
    pub blobs: &'a [Blob],
}

impl Changes {
    /// Makes it known, and the newest of its reference. False if it was both.
    pub async fn put_pushed(&mut self, new: &NewPushed<'_>) -> Result<bool, StoreError> {
        let act = "making an artifact known";
        let sql = format!("SELECT newest FROM ({NEWEST}) n WHERE kind = $1 AND reference = $2 AND digest = $3");
        let before: Option<bool> = sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
            .bind(new.kind)
            .bind(new.reference)
            .bind(&new.digest.0[..])
            .fetch_optional(&mut *self.tx)
            .await
            .act(act)?;
        if before == Some(true) {
            return Ok(false);
        }
        sqlx::query(
            "INSERT INTO pushed_artifact (kind, reference, digest, image_id, blobs, created_at, created_by) \
             VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (digest, kind, reference) DO UPDATE SET \
             created_at = excluded.created_at, created_by = excluded.created_by",
        )
        .bind(new.kind)
        .bind(new.reference)
        .bind(&new.digest.0[..])
        .bind(new.image_id)
        .bind(Json(new.blobs))
        .bind(self.at)
        .bind(&self.actor)
        .execute(&mut *self.tx)
        .await
        .act(act)?;
        let resource = format!("artifacts/{}", new.digest.hex());
        self.tell("ARTIFACT_PUSHED", resource, format!("{} {}", new.kind, new.reference)).await?;
        super::hints::hint(&mut self.tx, "pushed_artifact").await?;
        Ok(true)
    }

    /// Forgets what was pushed under this digest, and says which blobs nothing names any more. None: it is not known.
    pub async fn forget_pushed(&mut self, digest: Digest) -> Result<Option<Vec<Blob>>, StoreError> {
        let act = "deleting an artifact";
        let gone: Vec<(String, Json<Vec<Blob>>)> =
            sqlx::query_as("DELETE FROM pushed_artifact WHERE digest = $1 RETURNING reference, blobs")
                .bind(&digest.0[..])
                .fetch_all(&mut *self.tx)
                .await
                .act(act)?;
        let Some((reference, blobs)) = gone.into_iter().next() else { return Ok(None) };
        let kept: Vec<Json<Vec<Blob>>> =
            sqlx::query_scalar("SELECT blobs FROM pushed_artifact").fetch_all(&mut *self.tx).await.act(act)?;
        let named = |b: &Blob| kept.iter().any(|k| k.0.iter().any(|o| o.digest == b.digest));
        self.tell("ARTIFACT_DELETED", format!("artifacts/{}", digest.hex()), reference).await?;
        super::hints::hint(&mut self.tx, "pushed_artifact").await?;
        Ok(Some(blobs.0.into_iter().filter(|b| !named(b)).collect()))
    }
}
