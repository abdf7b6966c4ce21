//! Caches on the real engine: what they are allowed, what changes while they serve, and what outlives them.
use crate::host::*;
use redforge_edge::workload::{
    resp::{self, Answer, RespError},
    valkey,
};
use redforge_shared::desired::{Cache, Eviction, InstanceSpec, Persistence, Workload};
use std::time::Duration;

fn cache(kind: &str, settings: Cache) -> InstanceSpec {
    let workload = if kind == "redis" { Workload::Redis(settings) } else { Workload::Valkey(settings) };
    let mut spec = spec("memory", image(kind), workload);
    spec.resources.memory_bytes = Some(64 << 20);
    spec
}

impl Host {
    /// Sends the cache one command, as an instance of the host would.
    async fn tell(&self, command: &[&str]) -> Result<Answer, RespError> {
        let drawn = self.ledger.local_secret("valkey/memory/password", || panic!("the agent drew it")).await;
        let password = hex::encode(drawn.expect("the ledger answers"));
        let command = command.iter().map(|w| (*w).to_owned()).collect();
        let answers = resp::ask(self.address("memory").await, valkey::PORT, &password, &[command]).await?;
        Ok(answers.into_iter().next().expect("one command, one answer"))
    }

    async fn told(&self, setting: &str) -> String {
        let Ok(Answer::List(said)) = self.tell(&["CONFIG", "GET", setting]).await else { return String::new() };
        said.into_iter().nth(1).unwrap_or_default()
    }

    async fn until_told(&self, setting: &str, value: &str) {
        let began = std::time::Instant::now();
        while self.told(setting).await != value {
            assert!(began.elapsed() < DEADLINE, "{setting} is {} and not {value}", self.told(setting).await);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

async fn a_cache_serves_changes_and_keeps(kind: &str) {
    let mut host = Host::start().await;
    host.want(vec![cache(kind, Cache::default())]).await;
    host.until_running("memory").await;
    let locks = "{{.Config.User}} {{.HostConfig.ReadonlyRootfs}} {{.HostConfig.PidsLimit}} {{.Config.StopTimeout}}";
    assert_eq!(host.inspect("memory", locks), "999:999 true 512 60");
    assert_eq!(host.locks_of("memory"), LOCKED);
    assert_eq!(host.told("maxmemory").await, (48 << 20).to_string());
    assert_eq!(host.tell(&["SET", "shift", "late"]).await.expect("an answer"), Answer::Text("OK".into()));
    // Nobody comes in without the password that the host drew.
    let stranger = resp::ask(host.address("memory").await, valkey::PORT, "guess", &[vec!["PING".into()]]).await;
    assert!(matches!(stranger, Err(RespError::Refused { .. })), "{stranger:?}");

    let run = host.run_of("memory");
    let other = Cache {
        max_memory_bytes: Some(16 << 20),
        eviction: Eviction::AllkeysLru,
        persistence: Persistence::AppendOnlyAlways,
    };
    host.want(vec![cache(kind, other.clone())]).await;
    host.until_told("maxmemory", &(16 << 20).to_string()).await;
    host.until_told("maxmemory-policy", "allkeys-lru").await;
    host.until_told("appendfsync", "always").await;
    host.until_running("memory").await;
    // What somebody set by hand is put back.
    host.tell(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]).await.expect("an answer");
    host.until_told("maxmemory-policy", "allkeys-lru").await;
    assert_eq!(host.run_of("memory"), run, "a setting cost a restart");

    let mut again = cache(kind, other);
    again.restart_nonce = "1".into();
    host.want(vec![again]).await;
    host.until_running("memory").await;
    assert_ne!(host.run_of("memory"), run);
    assert_eq!(host.told("maxmemory").await, (16 << 20).to_string());
    assert_eq!(host.tell(&["GET", "shift"]).await.expect("an answer"), Answer::Text("late".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_redis_serves_changes_and_keeps() {
    a_cache_serves_changes_and_keeps("redis").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_valkey_serves_changes_and_keeps() {
    a_cache_serves_changes_and_keeps("valkey").await;
}
