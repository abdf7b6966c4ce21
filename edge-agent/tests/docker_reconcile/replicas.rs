//! Several containers of one instance on a real engine: each has its own data, and CPU use is what the engine says.
use crate::host::*;
use redforge_shared::{
    desired::{Container, InstanceSpec, Workload},
    ids::Digest,
    report::{InstanceStatus, ScaleMetric},
    scale::{Autoscale, Replicas, ScaleBy},
};

fn two(flow_set: Digest) -> InstanceSpec {
    InstanceSpec { replicas: 2, ..node_red("flows", flow_set) }
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_each_replica_of_node_red_gets_the_flows_hot_and_has_data_of_its_own() {
    let mut host = Host::start().await;
    let first = host.bring(saying("one")).await;
    host.want(vec![broker("broker"), two(first)]).await;
    let both = |i: &InstanceStatus| i.replicas == Replicas { ready: 2, desired: 2, total: 2 };
    let runs = |host: &Host| {
        let of = |n| host.names.container(&name("flows"), n);
        [0, 1].map(|n| docker(&["inspect", "--format", "{{.Id}} {{.State.StartedAt}}", &of(n)]))
    };
    host.until("flows", "two that are ready", both).await;
    host.until_running("flows").await;
    let before = runs(&host);
    let second = host.bring(saying("two")).await;
    host.want(vec![broker("broker"), two(second)]).await;
    host.until_running("flows").await;
    assert_eq!(runs(&host), before, "flows are no reason for a new container");
    let mut data = Vec::new();
    for number in [0, 1] {
        let container = host.names.container(&name("flows"), number);
        let format = format!("{{{{(index .NetworkSettings.Networks \"{}\").IPAddress}}}}", host.names.network());
        let address = docker(&["inspect", "--format", &format, &container]);
        assert_eq!(get(address.trim().parse().expect("an address"), "/said").await, "two", "replica {number}");
        let mounts = "{{range .Mounts}}{{if eq .Destination \"/data\"}}{{.Name}}{{end}}{{end}}";
        data.push(docker(&["inspect", "--format", mounts, &container]));
    }
    assert_ne!(data[0], data[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_a_busy_container_gets_company_by_what_the_engine_says_it_uses() {
    let mut host = Host::start().await;
    let command = ["sh", "-c", "while :; do :; done"].map(str::to_owned).to_vec();
    let workload = Workload::Container(Container { command, probe: None, broker: None });
    let mut busy = spec("busy", image("busybox"), workload);
    busy.resources.cpu_millicores = Some(100);
    busy.autoscale = Some(Autoscale { min: 1, max: 2, by: ScaleBy::CpuPercent(40), scale_down_after_s: 300 });
    host.want(vec![busy]).await;
    let company = |i: &InstanceStatus| i.replicas == Replicas { ready: 2, desired: 2, total: 2 };
    let status = host.until("busy", "two", company).await;
    let scaled = status.scaled.expect("it scales by itself");
    assert_eq!((scaled.metric, scaled.target, scaled.replicas), (ScaleMetric::Cpu, 40, 2));
    // It may use all of its limit, and on a busy machine less: what it cannot use is more.
    assert!(scaled.measured.is_some_and(|m| (41..=260).contains(&m)), "{scaled}");
}
