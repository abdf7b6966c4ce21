//! What the machine can do at most: the limits that the bench measures RedForge against. Uses no line of the project.
//!
//! One process, asked on its standard input with a JSON object a line, answering with one a line; between two questions
//! it does nothing, so that the other side of an interleaved round has the machine for itself. `floor` is another way to
//! run it: the least that a connected agent can weigh.
mod copy;
mod disk;
mod engine;
mod floor;
mod sqlite;

use serde::Deserialize;
use std::{
    io::{BufRead as _, Write as _},
    path::PathBuf,
};

/// What can be asked.
#[derive(Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
enum Question {
    /// How long does an fdatasync take now?
    Disk { dir: PathBuf },
    /// Durable inserts into a table as wide as an outbox.
    Sqlite { dir: PathBuf, batch: usize, bytes: usize, seconds: f64 },
    /// Rows of a 768-dimensional vector into a table as wide as the landing table.
    Copy { url: String, method: copy::Method, batch: usize, seconds: f64 },
    /// One listing of everything, one inspection of each container with this label, and what it has at this path.
    Observe { socket: PathBuf, label: String, path: String, times: usize },
    /// A container of this image from create until it answers on this port, then removed.
    Container {
        socket: PathBuf,
        image: String,
        /// Replaces the image's own.
        #[serde(default)]
        command: Vec<String>,
        port: u16,
    },
    /// A bare Node-RED, given other flows so many times.
    Deploys { socket: PathBuf, image: String, port: u16, times: usize },
}

fn answer(question: Question) -> anyhow::Result<serde_json::Value> {
    match question {
        Question::Disk { dir } => disk::probe(&dir),
        Question::Sqlite { dir, batch, bytes, seconds } => sqlite::insert(&dir, batch, bytes, seconds),
        Question::Copy { url, method, batch, seconds } => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(copy::rows(&url, method, batch, seconds))
        }
        Question::Observe { socket, label, path, times } => engine::observe(&socket, &label, &path, times),
        Question::Container { socket, image, command, port } => engine::container(&socket, &image, &command, port),
        Question::Deploys { socket, image, port, times } => engine::deploys(&socket, &image, port, times),
    }
}

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [mode, dir, socket, hub] = args.as_slice()
        && mode == "floor"
    {
        return floor::stand(dir.as_ref(), socket.as_ref(), hub);
    }
    for line in std::io::stdin().lock().lines() {
        let answered = serde_json::from_str(&line?).map_err(anyhow::Error::from).and_then(answer);
        let text = answered.unwrap_or_else(|e| serde_json::json!({"error": format!("{e:#}")})).to_string();
        let mut out = std::io::stdout();
        writeln!(out, "{text}")?;
        out.flush()?;
    }
    Ok(())
}

/// The middle one of some measurements, and the one that 99 of 100 do not exceed.
fn p50_p99(mut of: Vec<f64>) -> (f64, f64) {
    of.sort_by(f64::total_cmp);
    let at = |part: f64| of.get(((of.len() as f64 * part) as usize).min(of.len().saturating_sub(1))).copied();
    (at(0.5).unwrap_or(0.0), at(0.99).unwrap_or(0.0))
}
