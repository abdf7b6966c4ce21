//! `make bench`: what RedForge reaches, beside what the machine can reach at most, in the same minutes on the same disk.
//!
//! One file a subject; each measures in rounds that alternate with the limit program (`limits`, a crate of its own
//! without a line of the project). Prints a table and writes `target/bench.json`. A limit that cannot be measured fails
//! the run; a goal that is not reached is printed as such; a peer that cannot be had is "not run".
mod busy;
mod deploy;
mod drain;
mod footprint;
mod ground;
mod hot_deploy;
mod ingest;
mod outbox;
mod pass;
mod recall;
mod report;
mod revert;
mod rounds;
mod yardstick;

use anyhow::Context as _;
use clap::Parser;
use ground::Ground;
use report::Report;
use std::{path::PathBuf, time::Instant};

/// The hub's allocator, because its ingest runs in this process.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures RedForge beside the limits of the machine.
#[derive(Parser)]
struct Cli {
    /// Short slots and few rounds: for trying out, never for figures
    #[arg(long)]
    quick: bool,
    /// Only these subjects: outbox, ingest, drain, pass, deploy, hot_deploy, revert, recall, footprint, busy
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Where the figures go
    #[arg(long, default_value = "target/bench.json")]
    json: PathBuf,
}

fn main() -> anyhow::Result<()> {
    redforge_shared::daemon::install_crypto();
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(Box::pin(run(cli)))
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    let begun = Instant::now();
    let mut ground = Ground::prepare(cli.quick)?;
    let mut report = Report::default();
    let wanted = |what: &str| cli.only.is_empty() || cli.only.iter().any(|o| o == what);
    macro_rules! subject {
        ($($name:ident),*) => {$(
            if wanted(stringify!($name)) {
                eprintln!("== {} ({} s)", stringify!($name), begun.elapsed().as_secs());
                Box::pin($name::measure(&mut ground, &mut report)).await.context(stringify!($name))?;
            }
        )*};
    }
    subject!(outbox, ingest, drain, pass, deploy, hot_deploy, revert, recall, footprint, busy);
    report.write(&cli.json, cli.quick)?;
    println!("{}", report.table(cli.quick));
    println!("{} s; figures in {}", begun.elapsed().as_secs(), cli.json.display());
    Ok(())
}
