//! What is malformed, too large, too new or missing is refused by name, and nothing that was acked is lost.
mod acked;
mod disk;

use acked::Acked;
use redforge_shared::wire::pb;
use redforge_tests::{
    agent::TestAgent,
    hub::TestHub,
    operator::{channel, roots},
    place::{Process, binary, command, folder, free_port, run, text},
    wait::{eventually, stays, when},
};
use std::{io::Write, net::TcpStream, time::Duration};

#[tokio::test]
async fn a_malformed_manifest_is_refused_with_its_path_and_line() {
    let hub = TestHub::start().await;
    let mut operator = hub.operator().await;
    let manifest = "apiVersion: redforge.io/v1\nkind: Site\nmetadata:\n  name: plant\nspec:\n  timeZome: UTC\n";
    let refusal = operator.try_apply(manifest).await.expect_err("must be refused");
    assert_eq!(refusal.code(), tonic::Code::InvalidArgument);
    assert!(refusal.message().contains("timeZome") && refusal.message().contains("line 6"), "{refusal:?}");
    let sites = operator.admin.list_sites(pb::ListSitesRequest::default()).await.expect("served").into_inner();
    assert!(sites.sites.is_empty(), "half of a refused manifest was applied");
}

#[tokio::test]
async fn a_set_with_one_bad_document_changes_nothing() {
    let hub = TestHub::start().await;
    let mut operator = hub.operator().await;
    let good = "apiVersion: redforge.io/v1\nkind: Site\nmetadata:\n  name: plant\nspec: {}\n";
    let bad = "---\napiVersion: redforge.io/v1\nkind: Instance\nmetadata:\n  name: a\nspec:\n  host: nowhere\n  kind: container\n  image: a:1\n";
    let refusal = operator.try_apply(&format!("{good}{bad}")).await.expect_err("the host does not exist");
    assert!(refusal.message().contains("nowhere"), "{refusal:?}");
    let sites = operator.admin.list_sites(pb::ListSitesRequest::default()).await.expect("served").into_inner();
    assert!(sites.sites.is_empty(), "half of a refused set was applied");
}

#[tokio::test]
async fn a_hundred_megabyte_flow_set_is_refused_and_the_hub_serves_on() {
    let hub = TestHub::start().await;
    let mut acked = Acked::by_hand(&hub).await;
    acked.land(&hub).await;
    let mut operator = hub.operator().await;
    let refusal = operator.push_tar("huge", &vec![b'x'; 100_000_000]).await.expect_err("must be refused");
    assert_eq!(refusal.code(), tonic::Code::InvalidArgument, "{refusal:?}");
    let said = "header.size_bytes: the flow set has 100000000 bytes, allowed are 1 to 16777216";
    assert_eq!(refusal.message(), said);
    acked.land(&hub).await;
    acked.are_all_there(&hub);
}

#[tokio::test]
async fn flow_sets_that_are_no_tar_or_hold_secrets_are_refused_by_name() {
    let hub = TestHub::start().await;
    let mut operator = hub.operator().await;
    let refusal = operator.push_tar("noise", &[0xff; 5000]).await.expect_err("must be refused");
    assert_eq!(refusal.code(), tonic::Code::InvalidArgument, "{refusal:?}");
    let sets = operator.admin.list_flow_sets(pb::ListFlowSetsRequest::default()).await.expect("served").into_inner();
    assert!(sets.flow_sets.is_empty());
}

#[tokio::test]
async fn binary_garbage_on_both_doors_harms_nobody() {
    let mut hub = TestHub::start().await;
    let mut acked = Acked::by_hand(&hub).await;
    acked.land(&hub).await;
    let mut seed: u32 = 7;
    for port in [hub.agents_port, hub.operators_port] {
        for length in [1_usize, 100, 70_000] {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the door is open");
            let noise: Vec<u8> = (0..length)
                .map(|_| {
                    seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (seed >> 24) as u8
                })
                .collect();
            // The door may close before it has read all of it.
            stream.write_all(&noise).ok();
        }
        // A peer that says nothing holds a connection, not the door.
        std::mem::forget(TcpStream::connect(("127.0.0.1", port)).expect("the door is open"));
    }
    acked.land(&hub).await;
    acked.are_all_there(&hub);
    let mut agent = TestAgent::prepare("press-1").without_docker();
    agent.enroll_at(&hub).await;
    assert!(hub.process.as_mut().is_some_and(Process::is_running));
}

/// Noise behind a good TLS handshake, with and without the opening words of HTTP/2.
#[tokio::test]
async fn binary_garbage_inside_tls_harms_nobody() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    redforge_shared::daemon::install_crypto();
    let hub = TestHub::start().await;
    let mut acked = Acked::by_hand(&hub).await;
    acked.land(&hub).await;
    let trust = || redforge_shared::tls::Trust::Roots(roots(&hub.root_pem()));
    let floor = time::OffsetDateTime::UNIX_EPOCH;
    let noise: Vec<u8> = (0..70_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    // GOAWAY: eight bytes on stream 0, nothing was processed, FRAME_SIZE_ERROR.
    let goaway = b"\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\x06".as_slice();
    // SETTINGS is the first thing that a peer hears with whom HTTP/2 was agreed; to noise it is also the last.
    let settings = b"\0\0\x18\x04\0\0\0\0\0".as_slice();
    let talks: [(bool, &str, &[u8]); 5] = [
        (true, "", settings),
        (true, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", goaway),
        (false, "", b"HTTP/1.1 400 Bad Request"),
        (false, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", goaway),
        (false, "GET / HTTP/1.1\r\nhost: x\r\n", b"HTTP/1.1 431 Request Header Fields Too Large"),
    ];
    for port in [hub.agents_port, hub.operators_port] {
        for (agreed, opening, refusal) in talks {
            let mut config = redforge_shared::tls::client_config(trust(), None, floor).expect("good");
            if !agreed {
                config.alpn_protocols.clear();
            }
            let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
            let tcp = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.expect("the door is open");
            let name = rustls_pki_types::ServerName::try_from(redforge_shared::tls::HUB_NAME).expect("a name");
            let mut stream = connector.connect(name, tcp).await.expect("TLS");
            // The door may close before it has read all of it.
            drop(stream.write_all(opening.as_bytes()).await);
            drop(stream.write_all(&noise).await);
            drop(stream.flush().await);
            // It is closed on us, and not kept open for ever.
            let mut answer = Vec::new();
            let closed = tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut answer)).await;
            assert!(closed.is_ok(), "port {port} keeps a talker of nonsense ('{opening}')");
            let refused = answer.windows(refusal.len()).any(|w| w == refusal);
            assert!(refused, "port {port}, '{opening}': {:?}", String::from_utf8_lossy(&answer));
        }
    }
    acked.land(&hub).await;
    acked.are_all_there(&hub);
    assert!(hub.process.as_ref().is_some_and(|p| !p.said().iter().any(|l| l.contains("panicked"))));
    let mut agent = TestAgent::prepare("press-1").without_docker();
    agent.enroll_at(&hub).await;
}

#[tokio::test]
async fn an_agent_with_a_newer_protocol_version_is_told_both_versions() {
    let hub = TestHub::start().await;
    let mut acked = Acked::by_hand(&hub).await;
    acked.land(&hub).await;
    let door = channel(hub.agents_port, acked.config()).await.expect("the agents' door is open");
    let hello = pb::Hello {
        run_id: vec![1; 16].into(),
        start_no: 1,
        hello_no: 1,
        protocol_min: 98,
        protocol_max: 99,
        facts: Some(pb::HostFacts::default()),
        ..Default::default()
    };
    let message = pb::SessionRequest { message: Some(pb::session_request::Message::Hello(hello)) };
    let mut client = pb::control_client::ControlClient::new(door);
    // The stream stays open behind the hello, as an agent's does.
    let stream = futures_util::StreamExt::chain(tokio_stream::once(message), tokio_stream::pending());
    let refusal = match client.session(stream).await {
        Err(status) => status,
        Ok(response) => response.into_inner().message().await.expect_err("must be refused"),
    };
    assert_eq!(refusal.code(), tonic::Code::FailedPrecondition, "{refusal:?}");
    let both = "this hub speaks agent protocol 1 to 1, the agent 98 to 99";
    assert!(refusal.message().starts_with(both), "{refusal:?}");
    acked.land(&hub).await;
    acked.are_all_there(&hub);
}

#[tokio::test]
async fn a_hub_whose_postgresql_is_down_at_start_says_so_and_serves_once_it_is_up() {
    let mut hub = TestHub::start().await;
    let mut acked = Acked::by_hand(&hub).await;
    acked.land(&hub).await;
    hub.stop().await;
    hub.postgres.down();
    hub.spawn();
    eventually("the hub says that PostgreSQL is away", async || {
        let process = hub.process.as_mut().expect("spawned");
        let said = process.said().join("\n");
        let ended = process.ended();
        assert!(ended.is_none(), "the hub gave up: {ended:?}\n{said}");
        when(said.contains("the database is not available; the hub stays up and keeps trying"), said)
    })
    .await;
    hub.postgres.up();
    hub.process.as_mut().expect("spawned").line("ready ", Duration::from_secs(60)).await;
    acked.land(&hub).await;
    acked.are_all_there(&hub);
}

#[tokio::test]
async fn postgresql_away_later_is_refused_as_unavailable_and_heals() {
    let mut hub = TestHub::start().await;
    let mut agent = TestAgent::prepare("press-1").without_docker();
    agent.enroll_at(&hub).await;
    agent.up().await;
    let mut acked = Acked::by_hand(&hub).await;
    acked.land(&hub).await;
    let mut operator = hub.operator().await;
    operator.host_when("press-1", "the host is online", |h| h.link() == pb::Link::Online).await;
    hub.postgres.down();
    let refusal = eventually("the hub refuses", async || match operator.host("press-1").await {
        Err(status) => Ok(status),
        Ok(host) => Err(host),
    })
    .await;
    assert_eq!(refusal.code(), tonic::Code::Unavailable, "{refusal:?}");
    assert_eq!(
        refusal.message(),
        "the hub's database is not available at the moment; the hub keeps trying, ask again later"
    );
    assert!(hub.process.as_mut().is_some_and(Process::is_running), "the hub died with its PostgreSQL");
    hub.postgres.up();
    operator.host_when("press-1", "the host is online again", |h| h.link() == pb::Link::Online).await;
    acked.land(&hub).await;
    acked.are_all_there(&hub);
}

#[tokio::test]
async fn an_agent_without_a_docker_socket_stays_up_and_says_so() {
    let hub = TestHub::start().await;
    let mut acked = Acked::by_hand(&hub).await;
    acked.land(&hub).await;
    let mut agent = TestAgent::prepare("press-1").without_docker();
    agent.enroll_at(&hub).await;
    agent.up().await;
    let mut operator = hub.operator().await;
    let manifest = "apiVersion: redforge.io/v1\nkind: Instance\nmetadata:\n  name: worker\nspec:\n  host: press-1\n  kind: container\n  image: nothing:1\n";
    operator.apply(manifest).await;
    let host = operator
        .host_when("press-1", "the absent engine is reported", |h| {
            h.reason() == pb::StatusReason::RuntimeUnreachable && h.link() == pb::Link::Online
        })
        .await;
    assert_eq!(host.health(), pb::Health::Error);
    let said = text(&agent.status(&[]));
    assert!(said.lines().next().is_some_and(|l| l.contains("Docker does not answer")), "{said}");
    acked.land(&hub).await;
    acked.are_all_there(&hub);
    // The same trouble is told once, not at every pass.
    let told = stays(Duration::from_secs(4), "what was told of the trouble", async || {
        let log = agent.process.as_ref().expect("it runs").said();
        log.iter().filter(|l| l.contains("pass failed")).count()
    });
    assert_eq!(told.await, 1);
    assert!(agent.process.as_mut().is_some_and(Process::is_running));
}

/// The engine comes after the agent: nobody has to tell it.
#[tokio::test]
async fn docker_an_engine_that_appears_later_is_used_by_itself() {
    let hub = TestHub::start().await;
    let mut agent = TestAgent::prepare("press-1").without_docker();
    agent.enroll_at(&hub).await;
    agent.up().await;
    let mut operator = hub.operator().await;
    operator.apply(&crate::words::idler("press-1", "worker")).await;
    operator
        .host_when("press-1", "the absent engine is reported", |h| h.reason() == pb::StatusReason::RuntimeUnreachable)
        .await;
    let said = text(&agent.status(&[]));
    let first = said.lines().next().unwrap_or_default();
    assert!(first.contains("Docker does not answer") && first.contains("systemctl status docker"), "{said}");
    std::os::unix::fs::symlink("/var/run/docker.sock", agent.dir().join("no.sock")).expect("own folder");
    operator.running("press-1", "worker").await;
    operator
        .host_when("press-1", "the host is well", |h| {
            h.health() == pb::Health::Healthy && h.sync() == pb::Sync::UpToDate
        })
        .await;
    let said = text(&agent.status(&[]));
    assert!(said.lines().next().is_some_and(|l| l.contains("everything up to date")), "{said}");
}

/// What was acked at the edge while the hub's PostgreSQL was away arrives, once.
#[tokio::test]
async fn docker_no_acked_record_is_lost_while_postgresql_is_away() {
    let mut hub = TestHub::start().await;
    let agent = TestAgent::start(&hub, "press-1").await;
    let mut operator = hub.operator().await;
    let manifests = crate::words::broker("press-1") + &crate::words::node_red("press-1", "flows", None);
    operator.apply(&manifests).await;
    let at = redforge_tests::flowless::broker_of(&mut operator, &agent).await;
    let journal = agent.dir().join("acked.jsonl");
    let mut publisher = redforge_tests::publisher::Publisher::new(&at, "rft-publisher", &journal);
    for round in ["before", "away", "after"] {
        if round == "away" {
            hub.postgres.down();
        }
        if round == "after" {
            hub.postgres.up();
        }
        for i in 0..100 {
            publisher.publish(&format!("{round}-{i}")).await;
            while publisher.unacked() > 40 {
                publisher.turn().await;
            }
        }
        publisher.all_acked().await;
    }
    let pool = hub.postgres.pool().await;
    eventually("everything acked has arrived", async || {
        let n: i64 = sqlx::query_scalar("SELECT count(*) FROM record_event").fetch_one(&pool).await.expect("there");
        when(n == 300, n)
    })
    .await;
    assert!(hub.process.as_mut().is_some_and(Process::is_running), "the hub died with its PostgreSQL");
    let checked = hub.checker(&["--keyed", &journal.display().to_string()]);
    assert!(checked.good, "{}", checked.text);
}

#[test]
fn a_bad_configuration_ends_with_64_before_a_port_opens() {
    let dir = folder();
    let config = dir.path().join("bad.toml");
    let port = free_port();
    for (program, args) in [("redforge-hub", ["serve", "--config"]), ("redforge-edge", ["run", "--config"])] {
        std::fs::write(&config, format!("port_base = {port}\n[agents]\nlissten = \"127.0.0.1:{port}\"\n"))
            .expect("own");
        let output = run(command(&binary(program)).args(args).arg(&config), Duration::from_secs(20));
        assert_eq!(output.status.code(), Some(64), "{program}: {}", text(&output));
        let said = text(&output);
        assert!(said.contains("lissten") || said.contains("agents"), "{program}: {said}");
        assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "{program} opened a port");
    }
}
