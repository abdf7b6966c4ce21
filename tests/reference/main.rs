//! Writes `docs/reference` anew, or with `--check` says which pages are stale. Uses the programs that are built already.
use clap::Parser;
use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

mod pages;
mod proto;
mod sources;

#[derive(Parser)]
struct Cli {
    /// Write nothing; end with 1 and name the pages that are stale.
    #[arg(long)]
    check: bool,
    /// Folder of the pages.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Folder of the programs.
    #[arg(long, default_value = "target/debug")]
    programs: PathBuf,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("below the workspace");
    let folder = cli.folder.unwrap_or_else(|| root.join("docs/reference"));
    let mut stale = 0;
    for (name, text) in pages::all(root, &root.join(&cli.programs)) {
        let path = folder.join(&name);
        if fs::read_to_string(&path).is_ok_and(|have| have == text) {
            continue;
        }
        stale += 1;
        if cli.check {
            println!("stale: {}", path.display());
            continue;
        }
        fs::create_dir_all(path.parent().expect("below the folder")).expect("the folder is writable");
        fs::write(&path, text).expect("the folder is writable");
        println!("wrote {}", path.display());
    }
    if cli.check && stale > 0 {
        println!("run `make reference`");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
