//! The disk alone: how long it takes until 4 KiB at the end of a file are safe.
use crate::p50_p99;
use anyhow::Context as _;
use serde_json::{Value, json};
use std::{fs::File, io::Write as _, path::Path, time::Instant};

/// Syncs of one probe; at 4 ms each they take less than half a second.
const SYNCS: usize = 100;

/// Milliseconds of an append and its fdatasync.
pub fn probe(dir: &Path) -> anyhow::Result<Value> {
    let path = dir.join("fdatasync.probe");
    let mut file = File::create(&path).with_context(|| format!("{}: cannot be made", path.display()))?;
    let mut took = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        let begun = Instant::now();
        file.write_all(&[7; 4096])?;
        file.sync_data()?;
        took.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    std::fs::remove_file(&path)?;
    let (p50, p99) = p50_p99(took);
    Ok(json!({"p50_ms": p50, "p99_ms": p99}))
}
