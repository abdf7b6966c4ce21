//! What the subjects share: the limit program, a scratch folder on the clone's own disk, a hub on a PostgreSQL that is
//! set up as a server would be, and how long a slot is.
use crate::yardstick::Yardstick;
use anyhow::Context as _;
use redforge_shared::record::{Body, Encoding, Metric, Vector};
use redforge_tests::hub::{TestHub, Wishes};
use serde_json::json;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Settings of the database that both sides of a round use.
const POSTGRES: &str = "-c shared_buffers=512MB -c max_wal_size=4GB -c fsync=on -c synchronous_commit=on";
/// Components of a vector of 3 KiB.
const DIM: u32 = 768;

/// Where the bench stands.
pub struct Ground {
    pub yard: Yardstick,
    pub quick: bool,
    work: TempDir,
    hub: Option<TestHub>,
}

impl Ground {
    /// A folder and the limit program; the hub comes when it is first needed.
    pub fn prepare(quick: bool) -> anyhow::Result<Self> {
        std::fs::create_dir_all("target").context("the bench runs in the clone's folder")?;
        // The build's own disk: /tmp may be memory.
        let work = tempfile::Builder::new().prefix("bench").tempdir_in("target")?;
        Ok(Self { yard: Yardstick::start()?, quick, work, hub: None })
    }

    /// Rounds of a subject.
    pub fn rounds(&self) -> usize {
        if self.quick { 2 } else { 5 }
    }

    /// Seconds of one side of a round.
    pub fn slot_s(&self) -> f64 {
        if self.quick { 1.0 } else { 3.0 }
    }

    /// Scratch folder.
    pub fn dir(&self) -> &Path {
        self.work.path()
    }

    /// A fresh folder in it.
    pub fn fresh(&self, name: &str) -> anyhow::Result<PathBuf> {
        let dir = std::path::absolute(self.dir())?.join(name);
        drop(std::fs::remove_dir_all(&dir));
        std::fs::create_dir_all(&dir)?;
        Ok(dir)
    }

    /// Milliseconds of an fdatasync now.
    pub fn fdatasync_ms(&mut self) -> anyhow::Result<f64> {
        let question = json!({"ask": "disk", "dir": self.work.path()});
        self.yard.number(&question, "p50_ms")
    }

    /// The hub, running.
    pub async fn hub(&mut self) -> &mut TestHub {
        if self.hub.is_none() {
            let wishes = Wishes {
                // Acked rows are deleted at once, so that deleting is part of what is measured.
                more: "hub_rpo_s = 1\n".into(),
                postgres: POSTGRES.into(),
                ..Wishes::default()
            };
            self.hub = Some(Box::pin(TestHub::start_with(wishes)).await);
        }
        self.hub.as_mut().expect("it was just started")
    }
}

/// A vector of 3 KiB that does not compress, as the limit program writes it.
pub fn vector() -> Body {
    let mut x = 88_172_645_463_325_252_u64;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        (x >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    Body::Vector(Vector {
        collection: "bench".parse().expect("a name"),
        source: "document-1".into(),
        ordinal: 1,
        encoding: Encoding::F32,
        dim: DIM,
        scale: 1.0,
        data: (0..DIM).flat_map(|_| next().to_le_bytes()).collect(),
        model: "embed".into(),
        model_digest: "a".repeat(64),
        metric: Metric::Cosine,
        document_prefix: String::new(),
        query_prefix: String::new(),
        tombstone: false,
        text: String::new(),
    })
}
