//! What a container prints while the agent ends it arrives, each line once.
use crate::host::*;
use redforge_edge::{
    collect::{Tools, logs},
    db::outbox::{Limits, Outbox},
    privacy::Gate,
    runtime::docker::Docker,
};
use redforge_shared::{
    clock::SystemClock,
    daemon::Tasks,
    desired::{Container, InstanceSpec, Workload},
    policy::Policy,
    record::RecordClass,
};
use std::{sync::Arc, time::Instant};

/// Says one line at first and 200 when it is told to end.
fn talker(nonce: &str) -> InstanceSpec {
    let script = "trap 'i=0; while [ $i -lt 200 ]; do echo last-$i; i=$((i+1)); done; exit 0' TERM; \
                  echo first; while :; do sleep 0.1; done";
    let command = ["sh", "-c", script].map(str::to_owned).to_vec();
    let mut spec =
        spec("talker", image("busybox"), Workload::Container(Container { command, probe: None, broker: None }));
    spec.restart_nonce = nonce.into();
    spec.collect_logs = true;
    spec
}

async fn until_lines(outbox: &Outbox, lines: u64) {
    let began = Instant::now();
    loop {
        let all = outbox.status().await.expect("reads");
        let here = all.iter().find(|c| c.class == RecordClass::Log).map_or(0, |c| c.waiting);
        assert!(here <= lines, "a line came twice: {here} of {lines}");
        if here == lines {
            return;
        }
        assert!(began.elapsed() < DEADLINE, "{here} of {lines} lines arrived");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_the_last_lines_of_a_container_that_is_replaced_or_deleted_arrive() {
    let mut host = Host::start().await;
    let limits = Limits { reserve_bytes: 4096, ..Limits::default() };
    let outbox = Outbox::open(&host.dir.path().join("outbox.db"), limits, Arc::new(SystemClock)).await.expect("opens");
    let tools = Tools::new(Gate::new(Policy::Open), outbox.clone(), Arc::new(SystemClock));
    let tasks = Tasks::new();
    let docker = Arc::new(Docker::new("/var/run/docker.sock"));
    tasks.spawn("collect", logs::run(host.logs.clone(), docker, tools, tasks.stop_token()));

    host.want(vec![talker("")]).await;
    until_lines(&outbox, 1).await;
    host.want(vec![talker("again")]).await;
    host.until_running("talker").await;
    until_lines(&outbox, 202).await;
    host.want(vec![]).await;
    until_lines(&outbox, 402).await;
    tasks.stop_token().cancel();
}
