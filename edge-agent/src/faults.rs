//! The agent with fault points, for stories that aim their kills. The shipped program is built without any.
//!
//! Points are armed by lines on standard input, `NAME=ACTIONS` in the words of crate `fail`, while the process runs. An armed
//! `panic` is a kill -9 of the own process at that very place: nothing is unwound, flushed or answered.
#[path = "main.rs"]
mod program;

use std::{
    io::{BufRead as _, Write as _},
    process::ExitCode,
};

fn main() -> ExitCode {
    // Kept to the end: leaving it disarms every point.
    let _armed = fail::FailScenario::setup();
    std::panic::set_hook(Box::new(|panic| {
        let words = panic.payload_as_str().unwrap_or_default();
        drop(writeln!(std::io::stderr(), "{words} at {:?}", panic.location()));
        if words.starts_with("failpoint ") {
            let this = rustix::process::getpid();
            rustix::process::kill_process(this, rustix::process::Signal::KILL).ok();
        }
    }));
    std::thread::spawn(|| {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            let armed = line.split_once('=').is_some_and(|(name, actions)| fail::cfg(name, actions).is_ok());
            drop(writeln!(std::io::stdout(), "{} {line}", if armed { "armed" } else { "not armed" }));
        }
    });
    program::main()
}
