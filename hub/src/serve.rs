//! THE wiring: reads as a bill of materials. Makes every part, gives each what it needs, and ends them in order.
//!
//! Decides nothing that a part could decide. The doors open even while the database is away; `ready` is said when all of
//! it serves.
use crate::{
    api::{Api, Parts, Role, callers},
    config::Config,
    depot::Depot,
    dev_postgres::{self, DevPostgres},
    door::{Door, Limits, tls_source},
    embed::Embed,
    grpc::{self, operator::Gate, peer::Peers},
    metrics,
    pki::{Pki, server_tls::DoorTls},
    sessions::Sessions,
    store::{DatabaseConfig, Store, hints::Hints},
    tasks::{self as loops, keep_certificates::Keeper, keep_database::Database},
    web,
};
use anyhow::Context as _;
use axum::{Router, http::header::CONTENT_TYPE, middleware, response::IntoResponse};
use redforge_shared::{
    clock::{SharedClock, SystemClock},
    daemon::{self, Tasks},
    wire::pb,
};
use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::Path,
    sync::Arc,
    time::Duration,
};
use tokio::{net::TcpListener, sync::watch};
use tonic::service::Routes;
use tower::ServiceExt as _;

/// How long tasks may take to end.
const GRACE: Duration = Duration::from_secs(10);
/// Time until an agent's call, or an operator's, begins its answer. Streams begin theirs at once.
const AGENTS_ANSWER: Duration = Duration::from_secs(30);
const OPERATORS_ANSWER: Duration = Duration::from_secs(300);

/// The three ports, bound.
struct Listeners {
    agents: TcpListener,
    operators: TcpListener,
    metrics: TcpListener,
}

/// What the doors and the loops share.
struct House {
    config: Config,
    dev: bool,
    tasks: Tasks,
    stop: tokio_util::sync::CancellationToken,
    clock: SharedClock,
    store: Store,
    depot: Depot,
    hints: Hints,
    sessions: Sessions,
    pki: Pki,
    tls: Arc<DoorTls>,
    callers: callers::Callers,
}

/// The hub from start to stop. `dev` makes what is missing: database, authority, an administrator's token.
pub async fn run(config: Config, dev: bool) -> anyhow::Result<()> {
    let tasks = Tasks::new();
    let stop = tasks.stop_token();
    let clock: SharedClock = Arc::new(SystemClock);
    make_state_dir(&config.state_dir)?;
    let _alone = lock(&config.state_dir)?;
    let listeners = Listeners::bind(&config).await?;
    let addresses = listeners.addresses()?;

    // PostgreSQL outlives the tasks, so it is tracked apart.
    let postgres_tasks = Tasks::new();
    let (database, postgres) = own_database(&config, dev, &postgres_tasks).await?;
    let store = Store::open(&database)?;
    let depot = Depot::new(config.artifacts_dir.clone(), config.max_blob_bytes);
    let house = House {
        depot,
        hints: Hints::new(),
        sessions: Sessions::default(),
        pki: Pki::new(config.lifetimes),
        tls: Arc::new(DoorTls::default()),
        callers: callers::Callers::new(store.clone(), clock.clone()),
        config,
        dev,
        tasks,
        stop: stop.clone(),
        clock,
        store,
    };
    let (database_tx, database_state) = watch::channel(Database::Away);
    let (certified_tx, certified) = watch::channel(false);
    house.start_loops(database_tx, certified_tx);

    house.open_agents_door(listeners.agents);
    let (health, health_service) = tonic_health::server::health_reporter();
    house.open_operators_door(listeners.operators, &house.api(addresses[0])?, health_service)?;

    let House { config, tasks, store, sessions, callers, .. } = house;
    let sources = metrics::Sources { database: database_state.clone(), sessions };
    tasks.spawn("metrics", metrics::run(listeners.metrics, sources, stop.clone()));
    tasks.spawn("health", report_health(health, database_state.clone(), stop.clone()));
    if let Some(every) = daemon::watchdog_interval() {
        tasks.spawn("watchdog", daemon::watch(tasks.clone(), every, daemon::notify_watchdog));
    }
    let said = Said { addresses, callers, state_dir: config.state_dir, dev };
    tasks.spawn_job(announce(said, database_state, certified, stop));
    daemon::notify_ready("waiting for the database");

    tasks.run_until_stopped(GRACE).await;
    store.close().await;
    if let Some(postgres) = postgres {
        postgres.stop().await;
    }
    Ok(())
}

impl House {
    /// The operators' verbs.
    fn api(&self, agents: SocketAddr) -> anyhow::Result<Arc<Api>> {
        let embed = match &self.config.embed_url {
            Some(url) => Some(Embed::new(url, self.config.standin)?),
            None => None,
        };
        Ok(Api::new(Parts {
            store: self.store.clone(),
            pki: self.pki.clone(),
            clock: self.clock.clone(),
            public_url: public_url(&self.config, self.dev, agents),
            heartbeat: self.config.session.heartbeat,
            embed,
            depot: self.depot.clone(),
        }))
    }

    fn start_loops(&self, database: watch::Sender<Database>, certified: watch::Sender<bool>) {
        let Self { tasks, stop, clock, store, hints, sessions, .. } = self;
        let keeper = Keeper {
            store: store.clone(),
            pki: self.pki.clone(),
            tls: self.tls.clone(),
            clock: clock.clone(),
            state_dir: self.config.state_dir.clone(),
            names: door_names(&self.config),
            create: self.dev,
        };
        let heartbeat = self.config.session.heartbeat;
        tasks.spawn("keep_database", loops::keep_database::run(store.clone(), database, stop.clone()));
        tasks.spawn("keep_certificates", keeper.run(certified, stop.clone()));
        tasks.spawn("hints", hints.clone().run(store.clone(), stop.clone()));
        tasks.spawn(
            "liveness",
            loops::liveness::run(store.clone(), sessions.clone(), clock.clone(), heartbeat, stop.clone()),
        );
        tasks.spawn(
            "publish_desired",
            loops::publish_desired::run(store.clone(), hints.clone(), clock.clone(), stop.clone()),
        );
        tasks.spawn(
            "wake_sessions",
            loops::wake_sessions::run(store.clone(), hints.clone(), sessions.clone(), stop.clone()),
        );
        let sweeper = loops::sweep_artifacts::run(store.clone(), self.depot.clone(), clock.clone(), stop.clone());
        tasks.spawn("sweep_artifacts", sweeper);
        tasks.spawn("partitions", loops::partitions::run(store.clone(), clock.clone(), stop.clone()));
        let retention = self.config.retention.clone();
        tasks.spawn("prune", loops::prune::run(store.clone(), clock.clone(), retention, stop.clone()));
        tasks.spawn(
            "index_vectors",
            loops::index_vectors::run(store.clone(), hints.clone(), clock.clone(), stop.clone()),
        );
    }

    fn open_agents_door(&self, listener: TcpListener) {
        let Self { tasks, clock, store, hints, sessions, .. } = self;
        let peers = Peers::new(store.clone(), clock.clone());
        let agents = Routes::new(grpc::enrollment::Service::server(
            store.clone(),
            peers.clone(),
            self.pki.clone(),
            clock.clone(),
        ))
        .add_service(grpc::control::Service::server(
            store.clone(),
            peers.clone(),
            sessions.clone(),
            clock.clone(),
            self.config.session,
            tasks.clone(),
        ))
        .add_service(grpc::artifacts::Service::server(store.clone(), self.depot.clone(), peers.clone(), tasks.clone()))
        .add_service(grpc::drafts::Service::server(store.clone(), peers.clone(), clock.clone()))
        .add_service(grpc::telemetry::Service::server(
            store.clone(),
            peers.clone(),
            clock.clone(),
            hints.clone(),
            tasks.clone(),
        ))
        .into_axum_router();
        let door = Door {
            name: "agents",
            listener,
            tls: tls_source(self.tls.clone(), |t| &t.agents),
            router: answer_within(agents, AGENTS_ANSWER),
            limits: Limits {
                max_connections: self.config.session.max_connections,
                connection_age: self.config.session.connection_age,
            },
        };
        tasks.spawn("agents_door", door.run(tasks.clone()));
    }

    /// gRPC and the page on one port.
    fn open_operators_door(
        &self,
        listener: TcpListener,
        api: &Arc<Api>,
        health: tonic_health::pb::health_server::HealthServer<impl tonic_health::pb::health_server::Health>,
    ) -> anyhow::Result<()> {
        let gate = Gate { callers: self.callers.clone(), open_reflection: self.dev };
        let operators = Routes::new(grpc::admin::service(api.clone()))
            .add_service(health)
            .add_service(reflection().build_v1()?)
            .add_service(reflection().build_v1alpha()?)
            .into_axum_router()
            .layer(middleware::from_fn_with_state(gate, grpc::operator::check));
        let page = web::router(web::Parts {
            api: api.clone(),
            callers: self.callers.clone(),
            clock: self.clock.clone(),
            stop: self.stop.clone(),
        });
        let door = Door {
            name: "operators",
            listener,
            tls: tls_source(self.tls.clone(), |t| &t.operators),
            router: by_content(answer_within(operators, OPERATORS_ANSWER), page),
            limits: Limits { max_connections: 1000, connection_age: self.config.operators_age },
        };
        self.tasks.spawn("operators_door", door.run(self.tasks.clone()));
        Ok(())
    }
}

/// The database to use; with `dev` and no address, a private one.
async fn own_database(
    config: &Config,
    dev: bool,
    tasks: &Tasks,
) -> anyhow::Result<(DatabaseConfig, Option<dev_postgres::Running>)> {
    if let Some(database) = &config.database {
        return Ok((database.clone(), None));
    }
    anyhow::ensure!(dev, "database.url is not set; `redforge-hub dev` brings its own database");
    let settings = dev_postgres::Settings {
        state_dir: config.state_dir.clone(),
        run_dir: config.run_dir.clone(),
        bin: config.postgres_bin.clone(),
        cache_dir: config.cache_dir.clone(),
    };
    let postgres = DevPostgres::prepare(&settings).await?;
    let url = postgres.url();
    // For psql and for `admin token create --state`: the address has no secret, the socket's folder keeps others out.
    crate::pki::server_tls::replace(&config.state_dir.join("database.url"), format!("{url}\n").as_bytes(), 0o600)?;
    let database =
        DatabaseConfig { url: url.clone(), direct_url: url, max_connections: config.max_database_connections };
    Ok((database, Some(postgres.start(tasks))))
}

/// Makes the state folder, passable for the database's own user and readable for nobody else.
pub fn make_state_dir(dir: &Path) -> anyhow::Result<()> {
    let mode = if rustix::process::geteuid().is_root() { 0o711 } else { 0o700 };
    if !dir.exists() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(dir.parent().unwrap_or(dir))
            .and_then(|()| if dir.exists() { Ok(()) } else { fs::DirBuilder::new().mode(mode).create(dir) })
            .with_context(|| format!("making the state folder {}", dir.display()))?;
    }
    let have = fs::metadata(dir).with_context(|| format!("reading the state folder {}", dir.display()))?;
    let bits = have.permissions().mode() & 0o777;
    if bits & mode != mode {
        // The folder is ours: the bits that let the database's user pass are added, none is taken.
        fs::set_permissions(dir, fs::Permissions::from_mode(bits | mode))
            .with_context(|| format!("opening the state folder {} (mode {bits:03o})", dir.display()))?;
    }
    Ok(())
}

/// Two hubs must not run on one state folder.
fn lock(dir: &Path) -> anyhow::Result<fs::File> {
    let path = dir.join("hub.lock");
    let file = fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.with_context(|| format!("opening {}", path.display()))?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        .with_context(|| format!("another hub runs on the state folder {}", dir.display()))?;
    Ok(file)
}

impl Listeners {
    async fn bind(config: &Config) -> anyhow::Result<Self> {
        let bind = async |name: &str, at: SocketAddr| {
            TcpListener::bind(at).await.with_context(|| format!("listening on {at} for {name}"))
        };
        Ok(Self {
            agents: bind("agents", config.agents).await?,
            operators: bind("operators", config.operators).await?,
            metrics: bind("metrics", config.metrics).await?,
        })
    }

    fn addresses(&self) -> std::io::Result<[SocketAddr; 3]> {
        Ok([self.agents.local_addr()?, self.operators.local_addr()?, self.metrics.local_addr()?])
    }
}

/// What the operators' door is dialled by: this machine, the address it listens on, and the names in the settings.
pub fn door_names(config: &Config) -> Vec<String> {
    let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
    let listen = config.operators.ip();
    if !listen.is_unspecified() {
        names.push(listen.to_string());
    }
    let is_name = |n: &String| !n.is_empty() && n.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-'));
    names.extend(Some(hostname()).filter(is_name));
    names.extend(config.operators_names.iter().cloned());
    let mut seen = std::collections::BTreeSet::new();
    names.retain(|n| seen.insert(n.clone()));
    names
}

fn hostname() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_lowercase()
}

/// What agents are told to dial: as set, else the address we listen on, else this machine: by loopback for `dev`, whose
/// agents run beside it, by name otherwise.
fn public_url(config: &Config, dev: bool, agents: SocketAddr) -> String {
    if let Some(url) = &config.public_url {
        return url.clone();
    }
    if !agents.ip().is_unspecified() {
        return format!("https://{agents}");
    }
    if dev {
        return format!("https://127.0.0.1:{}", agents.port());
    }
    let name = Some(hostname()).filter(|n| !n.is_empty()).unwrap_or_else(|| "127.0.0.1".into());
    format!("https://{name}:{}", agents.port())
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

/// gRPC calls to one router, everything else to the other.
fn by_content(grpc: Router, page: Router) -> Router {
    Router::new().fallback(async move |request: axum::extract::Request| {
        let kind = request.headers().get(CONTENT_TYPE).map(|v| v.as_bytes());
        let router = if kind.is_some_and(|k| k.starts_with(b"application/grpc")) { grpc } else { page };
        router.oneshot(request).await
    })
}

/// A call whose answer has not begun in time hears so.
fn answer_within(router: Router, limit: Duration) -> Router {
    router.layer(middleware::from_fn(move |request: axum::extract::Request, next: middleware::Next| async move {
        match tokio::time::timeout(limit, next.run(request)).await {
            Ok(response) => response,
            Err(_) => tonic::Status::deadline_exceeded("the hub did not answer in time")
                .into_http::<axum::body::Body>()
                .into_response(),
        }
    }))
}

async fn report_health(
    health: tonic_health::server::HealthReporter,
    mut database: watch::Receiver<Database>,
    stop: tokio_util::sync::CancellationToken,
) {
    loop {
        let status = match *database.borrow_and_update() {
            Database::Ready => tonic_health::ServingStatus::Serving,
            Database::Away => tonic_health::ServingStatus::NotServing,
        };
        for service in ["", "redforge.v1.Admin"] {
            health.set_service_status(service, status).await;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = database.changed() => if changed.is_err() {
                return stop.cancelled().await;
            }
        }
    }
}

/// What is said when all of it serves.
struct Said {
    addresses: [SocketAddr; 3],
    callers: callers::Callers,
    state_dir: std::path::PathBuf,
    dev: bool,
}

/// Says once, on standard output, that all of it serves; `dev` also says how to get in.
async fn announce(
    said: Said,
    mut database: watch::Receiver<Database>,
    mut certified: watch::Receiver<bool>,
    stop: tokio_util::sync::CancellationToken,
) {
    let serves = async {
        database.wait_for(|d| *d == Database::Ready).await.ok()?;
        certified.wait_for(|c| *c).await.ok()?;
        Some(())
    };
    tokio::select! {
        () = stop.cancelled() => return,
        served = serves => if served.is_none() { return },
    }
    let [agents, operators, metrics] = said.addresses;
    if said.dev {
        let dir = said.state_dir.display();
        // To be pasted into a shell, as it is.
        println!(
            "tools export REDFORGE_HUB=https://{operators} REDFORGE_TOKEN_FILE='{dir}/operator.token' \
             REDFORGE_CA_FILE='{dir}/root.pem'"
        );
        match login_link(&said.state_dir.join("operator.token"), &said.callers).await {
            Ok(link) => println!("login https://{operators}/login?link={link}"),
            Err(e) => tracing::error!(error = format!("{e:#}"), "no operator's token"),
        }
    }
    println!("ready agents={agents} operators={operators} metrics={metrics}");
    daemon::notify_ready("serving");
}

/// What a login link of `dev` holds: a session of the page, never the token itself.
async fn login_link(path: &Path, callers: &callers::Callers) -> anyhow::Result<String> {
    let token = operator_token(path, callers).await?;
    Ok(callers.session_of(&token).await?.context("the token was not stored")?.text)
}

/// The administrator's token of `dev`: made once, kept in a file, good in whatever database there is.
async fn operator_token(path: &Path, callers: &callers::Callers) -> anyhow::Result<String> {
    let token = match fs::read_to_string(path) {
        Ok(text) if !text.trim().is_empty() => text.trim().to_owned(),
        _ => {
            let token = callers::new_token("rfo_").map_err(|_| anyhow::anyhow!("drawing random bytes failed"))?;
            crate::pki::server_tls::replace(path, format!("{token}\n").as_bytes(), 0o600)
                .with_context(|| format!("writing {}", path.display()))?;
            token
        }
    };
    callers.admit(&token, "dev", Role::Admin, None).await?;
    Ok(token)
}
