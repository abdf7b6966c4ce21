//! redforgectl: the operators' command line. Speaks the public gRPC API and nothing else, so the API stays complete.
//!
//! Data goes to standard output, everything said about it to standard error. Exit codes are part of the interface: see
//! `failure`. This file only hands a verb to its room.
mod apply;
mod artifacts;
mod changes;
mod cli;
mod config;
mod connection;
mod drafts;
mod editor;
mod failure;
mod first_steps;
mod flow_diff;
mod flow_files;
mod flow_sets;
mod get;
mod instances;
mod manifest_files;
mod node_modules;
mod output;
mod records;
mod rollback;
mod search;
mod streams;
mod suggest;
mod tokens;
mod views;
mod wait;
mod words;

use clap::{CommandFactory as _, Parser as _};
use cli::{Cli, Verb};
use failure::{Failure, Outcome};
use std::process::ExitCode;

fn main() -> ExitCode {
    redforge_shared::daemon::install_crypto();
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return Failure::error(format!("the runtime does not start: {e}")).print(),
    };
    match runtime.block_on(run(cli)) {
        Ok(code) => code,
        Err(failure) => failure.print(),
    }
}

async fn run(cli: Cli) -> Outcome<ExitCode> {
    if let Verb::Flowset(cli::FlowSetVerb::Diff(a)) = &cli.verb {
        return flow_diff::run(&cli.connection, a).await;
    }
    act(cli).await.map(|()| ExitCode::SUCCESS)
}

async fn act(cli: Cli) -> Outcome {
    let settings = &cli.connection;
    match cli.verb {
        Verb::Apply(a) => apply::run(settings, &a).await,
        Verb::Flowset(cli::FlowSetVerb::Push(a)) => flow_sets::push(settings, &a).await,
        Verb::Flowset(cli::FlowSetVerb::Pull(a)) => flow_files::pull(settings, &a).await,
        Verb::Flowset(cli::FlowSetVerb::Diff(a)) => flow_diff::run(settings, &a).await.map(drop),
        Verb::Flowset(cli::FlowSetVerb::Drafts { name, output }) => {
            drafts::list(settings, name.as_deref(), output).await
        }
        Verb::Flowset(cli::FlowSetVerb::Rollback(a)) => rollback::flow_set(settings, &a).await,
        Verb::Flowset(cli::FlowSetVerb::Adopt(a)) => drafts::adopt(settings, &a).await,
        Verb::Artifact(cli::ArtifactVerb::Push(a)) => match a.other {
            Some(cli::OtherPush::Flowset(push)) => flow_sets::push(settings, &push).await,
            Some(cli::OtherPush::Model { name, from }) => artifacts::push_model(settings, &name, &from).await,
            None => artifacts::push_image(settings, a.file.as_deref(), a.reference.as_deref()).await,
        },
        Verb::Artifact(cli::ArtifactVerb::List { output }) => artifacts::list(settings, output).await,
        Verb::Artifact(cli::ArtifactVerb::Delete { artifact }) => artifacts::delete(settings, &artifact).await,
        Verb::Get(a) => get::run(settings, &a).await,
        Verb::Logs(a) => records::logs(settings, &a).await,
        Verb::Records(a) => records::list(settings, &a).await,
        Verb::Search(a) => search::run(settings, &a).await,
        Verb::Streams(a) => streams::run(settings, &a).await,
        Verb::Token(cli::TokenVerb::Create(a)) => tokens::create(settings, &a).await,
        Verb::Delete(cli::DeleteVerb::Instance { name }) => instances::delete(settings, &name).await,
        Verb::Editor(a) => editor::run(settings, &a).await,
        Verb::Rollback(a) => rollback::run(settings, &a).await,
        Verb::Resume { host } => instances::resume(settings, &host).await,
        Verb::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "redforgectl", &mut std::io::stdout());
            Ok(())
        }
        Verb::Man(man) => man
            .run(Cli::command(), "1", &mut std::io::stdout())
            .map_err(|e| Failure::error(format!("the manual cannot be written: {e}"))),
        Verb::Version => {
            output::line(&format!("redforgectl {}", env!("CARGO_PKG_VERSION")));
            Ok(())
        }
    }
}
