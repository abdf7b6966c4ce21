//! The command line of the edge agent. Each command reads the settings once and calls one function.
use clap::{Args, CommandFactory, Parser, Subcommand};
use redforge_edge::{
    config::{Config, Environment, Flags},
    doctor,
    enroll::{self, Outcome},
    link::dial::HubUrl,
    logs, run, secret,
    site::{self, Deed, Target, span},
    status,
};
use redforge_shared::{
    clock::{Clock, SystemClock},
    daemon::{self, EXIT_CONFIG, LogFormat},
    error::Chain,
    ids::Name,
    tls::CaPin,
};
use std::{io::Write, path::PathBuf, process::ExitCode};

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 64 wrong usage or settings.";
const ENROLL_CODES: &str = "Exit codes: 0 enrolled (or was before, with the same hub), 1 failed, 3 the hub refuses (token \
    expired, used up, unknown, or used by another host), 4 the CA pin does not match, 5 enrolled with another hub, 8 the \
    hub cannot be reached or does not answer (try again: the same request is repeated), 64 wrong usage.";
const SECRET_CODES: &str =
    "Exit codes: 0 done, 3 there is no secret of this name, 1 failed, 64 wrong usage or settings.";
const STATUS_CODES: &str = "Exit codes: 0 the agent runs, 3 it does not run, 1 failed, 64 wrong usage or settings.";

const SITE_CODES: &str = "It works with the hub away, and while the agent is down. Exit codes: 0 done, 1 refused or failed \
    (the line says why and what to do), 64 wrong usage or settings.";
const DOCTOR_CODES: &str = "It changes nothing and needs neither hub nor agent; run it as root or as redforge-edge. Exit codes: 0 all \
    is well, 1 something to look at, 2 something failed, 64 wrong usage or settings.";
const LOGS_CODES: &str = "Lines of both outputs, with what a terminal would obey made visible; read from Docker, and with --failed \
    from the agent's ledger, so it works with the hub away and while the agent is down. Exit codes: 0 done, 1 failed, 64 wrong usage or settings.";

/// RedForge edge agent: makes Docker match what the hub wants and keeps every record until the hub has it.
#[derive(Parser)]
#[command(name = "redforge-edge", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the agent
    #[command(after_help = EXIT_CODES)]
    Run(Where),
    /// Give this host an identity, with a token from `redforgectl token create`
    #[command(after_help = ENROLL_CODES)]
    Enroll(EnrollArgs),
    /// Say how this host is doing
    #[command(after_help = STATUS_CODES)]
    Status {
        #[command(flatten)]
        at: Where,
        /// How to print it
        #[arg(short, long, value_enum, default_value = "table")]
        output: Output,
    },
    /// Look at everything the agent needs and say what to do about what is wrong
    #[command(after_help = DOCTOR_CODES)]
    Doctor {
        #[command(flatten)]
        at: Where,
        /// How to print it
        #[arg(short, long, value_enum, default_value = "table")]
        output: Output,
    },
    /// Leave instances as they are for a while, whatever the hub wants; it ends by itself
    #[command(after_help = SITE_CODES)]
    Hold(HoldArgs),
    /// End a hold before its time
    #[command(after_help = SITE_CODES)]
    Release(TargetArgs),
    /// Give instances a new container, in place of the one they have
    #[command(after_help = SITE_CODES)]
    Restart {
        /// Instances of this host
        #[arg(required = true)]
        names: Vec<Name>,
        #[command(flatten)]
        at: Where,
    },
    /// Show what an instance prints
    #[command(after_help = LOGS_CODES)]
    Logs {
        /// Instance of this host
        name: Name,
        /// Go on until stopped
        #[arg(short, long)]
        follow: bool,
        /// Only the last so many lines of each container
        #[arg(long, default_value_t = 200)]
        tail: u32,
        /// What it printed last when it failed last, with when and how: kept also when that container is gone
        #[arg(long, conflicts_with = "follow")]
        failed: bool,
        #[command(flatten)]
        at: Where,
    },
    /// The site's own secrets, which manifests name under `secretEnv`
    #[command(after_help = SECRET_CODES)]
    Secret {
        #[command(flatten)]
        at: Where,
        #[command(subcommand)]
        act: secret::Act,
    },
    /// Look at the settings
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Print the manual page, or write the pages of all commands
    Man(redforge_shared::manual::Man),
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Check the settings and print what they come to
    #[command(after_help = EXIT_CODES)]
    Check(Where),
}

#[derive(Args)]
struct Where {
    /// Settings file [default: /etc/redforge/edge.toml, as root and if it exists]
    #[arg(long, global = true)]
    config: Option<PathBuf>,
    /// State folder
    #[arg(long, global = true)]
    state: Option<PathBuf>,
    /// Folder for the status socket; must be short [default: with --state, the state folder]
    #[arg(long, global = true)]
    run_dir: Option<PathBuf>,
}

#[derive(Args)]
struct EnrollArgs {
    /// Hub's agents' door, https://HOST:PORT
    #[arg(long)]
    hub: HubUrl,
    /// Token as `redforgectl token create` printed it
    #[arg(long, env = "REDFORGE_EDGE_TOKEN", hide_env_values = true)]
    token: String,
    /// SHA-256 of the hub's root key, sha256:HEX
    #[arg(long)]
    ca_pin: CaPin,
    /// Name this host asks for [default: derived from its hostname]
    #[arg(long)]
    name: Option<Name>,
    #[command(flatten)]
    at: Where,
}

#[derive(Args)]
struct TargetArgs {
    /// Instances of this host
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    names: Vec<Name>,
    /// The whole host, with what is yet to come
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    at: Where,
}

#[derive(Args)]
struct HoldArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// For how long: 90s, 30m, 2h, 1d; the agent's settings say how long at most (site.max_hold_s)
    #[arg(long = "for", value_name = "TIME", value_parser = span::parse)]
    span: u64,
    /// Why; the hub's operators read it, with your user name
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

impl TargetArgs {
    fn target(self) -> Target {
        if self.all { Target::Host } else { Target::Instances(self.names) }
    }
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Output {
    Table,
    Json,
}

impl Where {
    fn load(&self) -> Result<Config, ExitCode> {
        let absolute = |p: &PathBuf| std::path::absolute(p).unwrap_or_else(|_| p.clone());
        let flags = Flags {
            config: self.config.clone(),
            state_dir: self.state.as_ref().map(absolute),
            run_dir: self.run_dir.as_ref().map(absolute),
        };
        Config::load(&flags, &Environment::of_process()).map_err(|e| fail(&Chain(&e).to_string(), EXIT_CONFIG))
    }
}

fn fail(text: &str, code: u8) -> ExitCode {
    drop(writeln!(std::io::stderr(), "redforge-edge: {text}"));
    ExitCode::from(code)
}

fn say(text: &str) {
    // Whoever read it may have gone (`status | head -1`): that is no failure.
    drop(writeln!(std::io::stdout(), "{text}"));
}

/// Also called by the build with fault points, which arms them first.
pub fn main() -> ExitCode {
    daemon::install_crypto();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            let wrong = e.use_stderr();
            // Help goes to a pipe that may be closed.
            drop(e.print());
            return if wrong { ExitCode::from(EXIT_CONFIG) } else { ExitCode::SUCCESS };
        }
    };
    let done = match cli.command {
        Command::Run(at) => at.load().map(run_agent),
        Command::Enroll(args) => enroll_host(args),
        Command::Status { at, output } => at.load().map(|config| show_status(&config, output)),
        Command::Doctor { at, output } => at.load().map(|config| examine(&config, output)),
        Command::Hold(HoldArgs { target, span, reason }) => {
            target.at.load().map(|c| at_the_site(&c, Deed::Hold { of: target.target(), for_s: span, reason }))
        }
        Command::Release(target) => target.at.load().map(|c| at_the_site(&c, Deed::Release { of: target.target() })),
        Command::Restart { names, at } => at.load().map(|c| at_the_site(&c, Deed::Restart { instances: names })),
        Command::Logs { name, tail, failed: true, at, .. } => at.load().map(|c| show_failed(&c, &name, tail)),
        Command::Logs { name, follow, tail, at, .. } => at.load().map(|c| show_logs(&c, &name, follow, tail)),
        Command::Secret { at, act } => at.load().and_then(|config| keep_secret(&config, &act)),
        Command::Config { command: ConfigCommand::Check(at) } => at.load().map(|config| {
            say(&format!("{}\n# The settings can be used.", config.as_toml()));
            ExitCode::SUCCESS
        }),
        Command::Man(man) => man
            .run(Cli::command(), "8", &mut std::io::stdout())
            .map(|()| ExitCode::SUCCESS)
            .map_err(|e| fail(&format!("the manual cannot be written: {e}"), 1)),
    };
    done.unwrap_or_else(|code| code)
}

fn runtime(workers: usize) -> Result<tokio::runtime::Runtime, ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build();
    runtime.map_err(|e| fail(&format!("the runtime cannot be started: {e}"), 1))
}

fn run_agent(config: Config) -> ExitCode {
    daemon::init_tracing(&config.log_filter, LogFormat::Auto, config.journal);
    // Never one: a worker that is busy for a moment must not stop the heartbeat.
    let workers = std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 4));
    let runtime = match runtime(workers) {
        Ok(runtime) => runtime,
        Err(code) => return code,
    };
    match runtime.block_on(Box::pin(run::run(config))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => fail(&format!("{e:#}"), 1),
    }
}

fn enroll_host(args: EnrollArgs) -> Result<ExitCode, ExitCode> {
    let config = args.at.load()?;
    let request = enroll::Request {
        hub: args.hub,
        token: args.token.into(),
        ca_pin: args.ca_pin,
        name: args.name,
        state_dir: config.state_dir,
        now: SystemClock.now(),
    };
    let enrolled = runtime(2)?.block_on(enroll::enroll(&request));
    Ok(match enrolled {
        Ok(Outcome::Enrolled(host)) => {
            say(&format!("Enrolled as '{}' of site '{}' (host {}).", host.name, host.site, host.host_id));
            ExitCode::SUCCESS
        }
        Ok(Outcome::Already(host)) => {
            say(&format!("Already enrolled as '{}' with {}: nothing to do.", host.name, host.hub_url));
            ExitCode::SUCCESS
        }
        Err(e) => fail(&Chain(&e).to_string(), e.exit_code()),
    })
}

fn examine(config: &Config, output: Output) -> ExitCode {
    let runtime = match runtime(2) {
        Ok(runtime) => runtime,
        Err(code) => return code,
    };
    let findings = runtime.block_on(doctor::examine(config, &SystemClock));
    let worst = doctor::worst(&findings);
    match output {
        Output::Table => say(&doctor::render(&findings)),
        Output::Json => {
            let json = serde_json::json!({ "verdict": worst, "checks": findings });
            say(&serde_json::to_string_pretty(&json).expect("findings can be written as JSON"));
        }
    }
    ExitCode::from(worst.exit_code())
}

/// Hold, release, restart: by the running agent, or in its ledger.
fn at_the_site(config: &Config, deed: Deed) -> ExitCode {
    let runtime = match runtime(2) {
        Ok(runtime) => runtime,
        Err(code) => return code,
    };
    match runtime.block_on(site::ask::ask(config, &SystemClock, deed)) {
        Ok(done) => {
            done.lines.iter().for_each(|line| say(line));
            ExitCode::SUCCESS
        }
        Err(e) => fail(&format!("{e:#}"), 1),
    }
}

fn show_logs(config: &Config, name: &Name, follow: bool, tail: u32) -> ExitCode {
    let runtime = match runtime(2) {
        Ok(runtime) => runtime,
        Err(code) => return code,
    };
    let mut out = std::io::stdout();
    match runtime.block_on(logs::show(config, name, follow, tail, &mut out)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => fail(&format!("{e:#}"), 1),
    }
}

fn show_failed(config: &Config, name: &Name, tail: u32) -> ExitCode {
    let runtime = match runtime(1) {
        Ok(runtime) => runtime,
        Err(code) => return code,
    };
    match runtime.block_on(logs::show_failed(config, name, tail, &mut std::io::stdout())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => fail(&format!("{e:#}"), 1),
    }
}

fn keep_secret(config: &Config, act: &secret::Act) -> Result<ExitCode, ExitCode> {
    let done = runtime(1)?.block_on(secret::act(act, &config.state_dir, SystemClock.now()));
    Ok(match done {
        Ok(said) => {
            say(&said);
            ExitCode::SUCCESS
        }
        Err(e) => fail(&Chain(&e).to_string(), e.exit_code()),
    })
}

fn show_status(config: &Config, output: Output) -> ExitCode {
    let runtime = match runtime(2) {
        Ok(runtime) => runtime,
        Err(code) => return code,
    };
    match runtime.block_on(status::gather(config, &SystemClock)) {
        Ok(view) => {
            match output {
                Output::Table => say(status::render(&view).trim_end()),
                Output::Json => {
                    let json = serde_json::json!({ "sentence": status::sentence(&view), "view": view });
                    say(&serde_json::to_string_pretty(&json).expect("a view can be written as JSON"));
                }
            }
            if view.running { ExitCode::SUCCESS } else { ExitCode::from(status::EXIT_NOT_RUNNING) }
        }
        Err(e) => fail(&format!("{e:#}"), 1),
    }
}
