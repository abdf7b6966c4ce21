//! `artifact`: images and models from this machine's files into the hub's store, in pieces that can be resumed.
//!
//! What a file holds is read in `files`; here it is sent, named, listed and deleted.
use crate::{
    config::Connection,
    connection::{self, Admin},
    failure::{Exit, Failure, Outcome},
    output::{self, Format, Listing, cell},
    suggest, words,
};
use files::{Piece, Source};
use redforge_shared::{
    artifact::{UPLOAD_CHUNK_BYTES, reference_key},
    ids::Digest,
    report::Progress,
    units::human_bytes,
    wire::pb,
};
use serde_json::json;
use std::{
    io::{IsTerminal as _, Write as _},
    path::Path,
    time::{Duration, Instant},
};
use tonic::Code;

mod files;

/// How often a push says how far it is.
const SAY_EVERY: Duration = Duration::from_secs(1);
/// A hub that goes away in the middle of a push is waited for so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Pushes an image.
pub async fn push_image(settings: &Connection, file: Option<&Path>, reference: Option<&str>) -> Outcome {
    let Some(file) = file else { return Err(Failure::new(Exit::Usage, "name the tar of an image")) };
    let image = files::image(file)?;
    let reference = match (reference, &image.references[..]) {
        (Some(given), _) => given.to_owned(),
        (None, [one]) => one.clone(),
        (None, []) => {
            let failure = Failure::error(format!("the image in {} has no tag", file.display()));
            return Err(failure.hint("say which reference manifests use for it: --as REFERENCE"));
        }
        (None, many) => {
            let failure = Failure::error(format!("the image in {} has the tags {}", file.display(), many.join(", ")));
            return Err(failure.hint("say which of them manifests use: --as REFERENCE"));
        }
    };
    let mut admin = connection::connect(settings).await?;
    send_all(&mut admin, &reference, &[image.tar]).await?;
    name(&mut admin, pb::ArtifactKind::Image, &reference, image.tar_digest, image.id).await
}

/// Pushes a model.
pub async fn push_model(settings: &Connection, model: &str, from: &Path) -> Outcome {
    let (digest, pieces) = files::model(model, &Source::open(from)?)?;
    let mut admin = connection::connect(settings).await?;
    send_all(&mut admin, model, &pieces).await?;
    name(&mut admin, pb::ArtifactKind::Model, model, digest, String::new()).await?;
    output::say(&format!("in a manifest: {{name: {model}, digest: {digest}}}"));
    Ok(())
}

async fn name(admin: &mut Admin, kind: pb::ArtifactKind, reference: &str, digest: Digest, image_id: String) -> Outcome {
    let request = pb::CreateArtifactRequest {
        kind: kind.into(),
        reference: reference.into(),
        digest: digest.0.to_vec().into(),
        image_id,
    };
    let done = admin.create_artifact(request).await?.into_inner();
    let artifact = done.artifact.unwrap_or_default();
    let what = if done.changed { "pushed" } else { "unchanged" };
    let size = human_bytes(artifact.size_bytes);
    output::line(&format!("{} {what}: {} {}, {size}", artifact.name, word(kind.into()), artifact.reference));
    artifact.used_by.iter().for_each(|i| output::say(&format!("{i} gets it from the hub")));
    Ok(())
}

/// Sends what the hub does not have yet.
async fn send_all(admin: &mut Admin, what: &str, pieces: &[Piece]) -> Outcome {
    let total_bytes = pieces.iter().map(|p| p.bytes).sum();
    let mut meter = Meter::new(Progress { what: what.into(), done_bytes: 0, total_bytes });
    for piece in pieces {
        send(admin, piece, &mut meter).await?;
    }
    meter.end();
    Ok(())
}

/// Sends one blob from where the hub has it. A blob that is there already is checked by the hub.
async fn send(admin: &mut Admin, piece: &Piece, meter: &mut Meter) -> Outcome {
    let before = meter.progress.done_bytes;
    let mut reader = piece.open()?;
    let mut at = 0;
    let (mut verify, mut away) = (true, None);
    loop {
        // The first call only asks.
        let data = if verify { Vec::new() } else { reader.read(at, UPLOAD_CHUNK_BYTES)? };
        let request = pb::UploadBlobRequest {
            digest: piece.digest.0.to_vec().into(),
            size_bytes: piece.bytes,
            offset: at,
            data: data.into(),
            verify,
        };
        let said = match admin.upload_blob(request).await {
            Ok(said) => said.into_inner(),
            Err(s) if s.code() == Code::Unavailable || std::error::Error::source(&s).is_some() => {
                // The next call dials again; how much arrived is asked anew.
                let since = *away.get_or_insert_with(Instant::now);
                if since.elapsed() > PATIENCE {
                    let failure = Failure::from(s);
                    return Err(failure.hint("what arrived is kept: the same command goes on from there"));
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
                verify = true;
                continue;
            }
            Err(s) => return Err(s.into()),
        };
        away = None;
        if verify && said.received_bytes > 0 {
            meter.resumed(said.received_bytes);
        }
        verify = false;
        at = said.received_bytes;
        meter.say(before + at);
        if said.complete {
            return Ok(());
        }
        if at > piece.bytes {
            return Err(Failure::error("the hub has more of the blob than there is"));
        }
    }
}

/// Says on standard error how far a push is: in one line on a terminal, else every ten per cent.
struct Meter {
    progress: Progress,
    said: Option<Instant>,
    percent: u64,
    terminal: bool,
}

impl Meter {
    fn new(progress: Progress) -> Self {
        Self { progress, said: None, percent: 0, terminal: std::io::stderr().is_terminal() }
    }

    fn resumed(&self, bytes: u64) {
        if !self.terminal && bytes < self.progress.total_bytes {
            output::say(&format!("{}: the hub has {} of it already", self.progress.what, human_bytes(bytes)));
        }
    }

    fn say(&mut self, done_bytes: u64) {
        self.progress.done_bytes = done_bytes;
        let percent = self.progress.percent().unwrap_or_default();
        if self.terminal {
            if self.said.is_none_or(|at| at.elapsed() >= SAY_EVERY) {
                self.said = Some(Instant::now());
                eprint!("\r\x1b[K{}: {}", output::plain(&self.progress.what), self.progress);
                drop(std::io::stderr().flush());
            }
        } else if percent >= self.percent + 10 {
            self.percent = percent - percent % 10;
            output::say(&format!("{}: {}", self.progress.what, self.progress));
        }
    }

    fn end(&self) {
        if self.terminal {
            eprint!("\r\x1b[K");
        }
    }
}

fn word(kind: i32) -> &'static str {
    match pb::ArtifactKind::try_from(kind) {
        Ok(pb::ArtifactKind::Image) => "image",
        Ok(pb::ArtifactKind::Model) => "model",
        _ => "unknown",
    }
}

async fn all(admin: &mut Admin) -> Outcome<Vec<pb::Artifact>> {
    Ok(admin.list_artifacts(pb::ListArtifactsRequest {}).await?.into_inner().artifacts)
}

/// Shows what was pushed.
pub async fn list(settings: &Connection, format: Format) -> Outcome {
    let mut admin = connection::connect(settings).await?;
    let all = all(&mut admin).await?;
    let wide = format == Format::Wide;
    let short = |a: &pb::Artifact| words::last(&a.name).chars().take(if wide { 64 } else { 12 }).collect::<String>();
    let used = |a: &pb::Artifact| match a.used_by.len() {
        0 if a.newest => "nobody".to_owned(),
        0 => "nobody, a newer one was pushed".to_owned(),
        1 => "1 instance".to_owned(),
        n => format!("{n} instances"),
    };
    let row = |a: &pb::Artifact| {
        let pushed = words::age(a.created_at.as_ref());
        [word(a.kind).to_owned(), a.reference.clone(), human_bytes(a.size_bytes), short(a), used(a), pushed]
            .map(cell)
            .to_vec()
    };
    let object = |a: &pb::Artifact| {
        json!({"name": a.name, "kind": word(a.kind), "reference": a.reference, "sizeBytes": a.size_bytes,
               "digest": format!("sha256:{}", words::last(&a.name)), "createdAt": words::time(a.created_at.as_ref()),
               "createdBy": a.created_by, "usedBy": a.used_by, "newest": a.newest})
    };
    let objects: Vec<_> = all.iter().map(object).collect();
    let listing = Listing {
        head: vec!["KIND", "REFERENCE", "SIZE", "DIGEST", "USED BY", "PUSHED"],
        rows: all.iter().map(row).collect(),
        names: all.iter().map(|a| a.name.clone()).collect(),
        manifests: objects.clone(),
        objects,
        single: false,
        empty: "Nothing was pushed. `redforgectl artifact push IMAGE.tar` gives hosts an image without a registry.",
    };
    listing.print(format)
}

/// Deletes one that nobody needs.
pub async fn delete(settings: &Connection, artifact: &str) -> Outcome {
    let mut admin = connection::connect(settings).await?;
    let all = all(&mut admin).await?;
    let hex = artifact.trim_start_matches("artifacts/").trim_start_matches("sha256:");
    let by_digest = |a: &&pb::Artifact| hex.len() >= 12 && words::last(&a.name).starts_with(hex);
    let by_name = |a: &&pb::Artifact| a.reference == artifact || a.reference == reference_key(artifact);
    let mut found: Vec<&pb::Artifact> = all.iter().filter(|a| by_digest(a) || by_name(a)).collect();
    found.dedup_by(|a, b| a.name == b.name);
    let name = match found[..] {
        [one] => one.name.clone(),
        [] => {
            let failure = Failure::new(Exit::NotFound, format!("no artifact is '{artifact}'"));
            return Err(suggest::nearest(failure, artifact, all.iter().map(|a| a.reference.clone())));
        }
        _ => {
            let failure = Failure::new(Exit::Conflict, format!("'{artifact}' is {} artifacts", found.len()));
            let digests: Vec<&str> = found.iter().map(|a| &words::last(&a.name)[..12]).collect();
            return Err(failure.hint(format!("name one by its digest: {}", digests.join(", "))));
        }
    };
    let freed = admin.delete_artifact(pb::DeleteArtifactRequest { name: name.clone() }).await?.into_inner().freed_bytes;
    output::line(&format!("{name} deleted, {} freed", human_bytes(freed)));
    Ok(())
}
