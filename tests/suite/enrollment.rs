//! A host gets its identity once, and nobody else gets it.
use redforge_shared::wire::pb;
use redforge_tests::{
    agent::TestAgent,
    hub::{TestHub, Wishes},
    operator::channel,
    place::{Process, text},
    proxy::{Proxy, Weather},
    wait::{eventually, eventually_within, when},
};
use std::time::Duration;

async fn one(hub: &TestHub, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(&hub.postgres.pool().await).await.expect("the hub's tables are there")
}

#[tokio::test]
async fn a_token_enrolls_one_identity_key_once_and_refuses_another() {
    let hub = TestHub::start().await;
    let mut operator = hub.operator().await;
    operator.site("plant").await;
    let token = operator.enroll_token("plant").await;
    assert!(
        token.command.contains("redforge-edge enroll") && token.command.contains(&token.ca_pin),
        "{}",
        token.command
    );
    let first = TestAgent::prepare("press-1");
    let output = first.enroll(&token);
    assert!(output.status.success(), "{}", text(&output));
    // The same identity again is the same host, not a second one.
    let output = first.enroll(&token);
    assert!(output.status.success(), "{}", text(&output));
    let second = TestAgent::prepare("press-2");
    let output = second.enroll(&token);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert!(text(&output).to_lowercase().contains("token"), "{}", text(&output));
    assert_eq!(one(&hub, "SELECT count(*) FROM host").await, 1);
    assert_eq!(one(&hub, "SELECT count(*) FROM enroll_use").await, 1);
}

#[tokio::test]
async fn keys_of_an_enrolled_host_are_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let hub = TestHub::start().await;
    let mut agent = TestAgent::prepare("press-1");
    agent.enroll_at(&hub).await;
    let mut keys = 0;
    for entry in std::fs::read_dir(agent.state().join("identity")).expect("enrolled") {
        let path = entry.expect("readable").path();
        if path.is_file()
            && std::fs::read(&path)
                .is_ok_and(|b| b.windows(7).any(|w| w == b"PRIVATE") || path.to_string_lossy().contains("key"))
        {
            let mode = path.metadata().expect("readable").permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{}", path.display());
            keys += 1;
        }
    }
    assert!(keys >= 1, "no key was found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_reply_is_repeated_and_gives_the_same_host() {
    let hub = TestHub::start().await;
    let mut operator = hub.operator().await;
    operator.site("plant").await;
    let token = operator.enroll_token("plant").await;
    let proxy = Proxy::start(hub.agents_port).await;
    proxy.set(Weather::Delay(Duration::from_millis(700)));
    let agent = TestAgent::prepare("press-1");
    let url = proxy.url();
    let (secret, pin) = (token.token.clone(), token.ca_pin.clone());
    let cut = async {
        eventually("the hub registers the host", async || {
            when(one(&hub, "SELECT count(*) FROM host").await == 1, "no host yet")
        })
        .await;
        // The reply is still held back: it is lost now.
        proxy.set(Weather::Reset);
    };
    let (output, ()) =
        tokio::join!(async { tokio::task::block_in_place(|| agent.enroll_with(&url, &secret, &pin)) }, cut);
    drop(output);
    proxy.set(Weather::Clear);
    let output = agent.enroll_with(&url, &token.token, &token.ca_pin);
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(one(&hub, "SELECT count(*) FROM host").await, 1);
    assert_eq!(one(&hub, "SELECT count(*) FROM enroll_use").await, 1);
}

#[tokio::test]
async fn a_wrong_ca_pin_is_refused_with_a_clear_text() {
    let hub = TestHub::start().await;
    let mut operator = hub.operator().await;
    operator.site("plant").await;
    let token = operator.enroll_token("plant").await;
    let agent = TestAgent::prepare("press-1");
    let output = agent.enroll_with(&token.hub_url, &token.token, &format!("sha256:{}", "0".repeat(64)));
    assert_eq!(output.status.code(), Some(4), "{}", text(&output));
    assert!(text(&output).to_lowercase().contains("pin"), "{}", text(&output));
    assert_eq!(one(&hub, "SELECT count(*) FROM host").await, 0);
}

#[tokio::test]
async fn an_expired_token_is_refused_with_a_clear_text() {
    let hub = TestHub::start().await;
    let mut operator = hub.operator().await;
    operator.site("plant").await;
    let token = operator.enroll_token("plant").await;
    let pool = hub.postgres.pool().await;
    let aged = sqlx::query("UPDATE enroll_token SET expires_at = now() - interval '1 second'").execute(&pool).await;
    assert_eq!(aged.expect("the table is there").rows_affected(), 1);
    let output = TestAgent::prepare("press-1").enroll(&token);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert!(text(&output).to_lowercase().contains("expired"), "{}", text(&output));
}

#[tokio::test]
async fn an_unknown_token_is_refused_with_a_clear_text() {
    let hub = TestHub::start().await;
    let mut operator = hub.operator().await;
    operator.site("plant").await;
    let token = operator.enroll_token("plant").await;
    let output =
        TestAgent::prepare("press-1").enroll_with(&token.hub_url, &"x".repeat(token.token.len()), &token.ca_pin);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert!(text(&output).to_lowercase().contains("token"), "{}", text(&output));
}

/// What the agents' door says to a session that comes without a certificate.
async fn knock(hub: &TestHub) -> String {
    redforge_shared::daemon::install_crypto();
    let trust = redforge_shared::tls::Trust::Roots(redforge_tests::operator::roots(&hub.root_pem()));
    let config = redforge_shared::tls::client_config(trust, None, time::OffsetDateTime::UNIX_EPOCH).expect("good");
    let channel = match channel(hub.agents_port, config).await {
        Ok(channel) => channel,
        Err(e) => return format!("{e:?}"),
    };
    let mut client = pb::control_client::ControlClient::new(channel);
    match client.session(tokio_stream::iter(Vec::<pb::SessionRequest>::new())).await {
        Err(status) => format!("{status:?}"),
        Ok(response) => match response.into_inner().message().await {
            Err(status) => format!("{status:?}"),
            Ok(message) => format!("served: {message:?}"),
        },
    }
}

#[tokio::test]
async fn a_session_without_a_certificate_is_refused() {
    let hub = TestHub::start().await;
    let answer = knock(&hub).await;
    assert!(!answer.starts_with("served"), "{answer}");
    assert!(answer.contains("certificate") || answer.contains("Unauthenticated"), "{answer}");
}

#[tokio::test]
async fn a_foreign_certificate_is_refused() {
    let hub = TestHub::start().await;
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::new(Vec::new()).expect("good");
    let uri = "redforge://host/01920000-0000-7000-8000-000000000000".try_into().expect("ASCII");
    params.subject_alt_names = vec![rcgen::SanType::URI(uri)];
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.self_signed(&key).expect("signed");
    let key = rustls_pki_types::PrivateKeyDer::try_from(key.serialize_der()).expect("PKCS#8");
    let identity = redforge_shared::tls::Identity { chain: vec![certificate.der().clone()], key };
    redforge_shared::daemon::install_crypto();
    let trust = redforge_shared::tls::Trust::Roots(redforge_tests::operator::roots(&hub.root_pem()));
    let config = redforge_shared::tls::client_config(trust, Some(identity), time::OffsetDateTime::UNIX_EPOCH);
    let url = format!("https://127.0.0.1:{}", hub.agents_port).parse().expect("a URL");
    // As the agent dials, and in the words that it has for it.
    let refusal = redforge_edge::link::dial::dial(&url, std::sync::Arc::new(config.expect("good"))).await;
    let refusal = refusal.expect_err("a certificate of nobody").to_string();
    assert!(refusal.ends_with("refuses this host's certificate (UnknownCA)"), "{refusal}");
}

/// A host that was dark for longer than its certificate lives.
#[tokio::test]
async fn a_host_whose_certificate_has_ended_comes_back_with_a_token_made_for_it() {
    let more = "[pki]\nhost_cert_life_s = 60\n".to_owned();
    let hub = TestHub::start_with(Wishes { more, ..Wishes::default() }).await;
    let mut agent = TestAgent::prepare("press-1").without_docker();
    agent.enroll_at(&hub).await;
    let (_, end) = host_validity(&agent);
    eventually("the certificate has ended", async || {
        when(redforge_shared::clock::Clock::now(&redforge_shared::clock::SystemClock) > end, end)
    })
    .await;
    agent.up().await;
    eventually("status says what to do", async || {
        let said = text(&agent.status(&[]));
        when(said.contains("redforgectl token create --site plant --host-name press-1"), said)
    })
    .await;
    let mut operator = hub.operator().await;
    // A token for anybody does not give somebody's place to whoever holds the keys.
    let any = operator.enroll_token("plant").await;
    let output = agent.enroll(&any);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert!(text(&output).contains("press-1"), "{}", text(&output));
    let request = pb::CreateTokenRequest {
        site: "sites/plant".into(),
        host_name: "press-1".into(),
        ..pb::CreateTokenRequest::default()
    };
    let token = operator.admin.create_token(request).await.expect("an admin may make tokens").into_inner();
    let output = agent.enroll(&token);
    assert!(output.status.success(), "{}", text(&output));
    operator.host_when("press-1", "the host is online again", |h| h.link() == pb::Link::Online).await;
    assert_eq!(one(&hub, "SELECT count(*) FROM host").await, 1, "it came back as another host");
}

#[tokio::test]
async fn an_agent_that_meets_another_hub_keeps_away_and_says_so() {
    let (home, other) = (TestHub::start().await, TestHub::start().await);
    let mut agent = TestAgent::prepare("press-1").without_docker();
    agent.enroll_at(&home).await;
    agent.env.push(("REDFORGE_EDGE__HUB_URL".into(), format!("https://127.0.0.1:{}", other.agents_port)));
    agent.up().await;
    eventually("status says that this is not its hub", async || {
        let said = text(&agent.status(&[]));
        when(said.starts_with("Working alone since") && said.contains("does not prove to be our hub"), said)
    })
    .await;
    assert_eq!(one(&other, "SELECT count(*) FROM host").await, 0);
}

/// Certificates that live for a minute: the host's is renewed and the door's replaced, with everything running.
#[tokio::test]
async fn certificates_are_renewed_between_half_and_two_thirds_of_their_life() {
    let more = "[pki]\nhost_cert_life_s = 60\nserver_cert_life_s = 60\n".to_owned();
    let mut hub = TestHub::start_with(Wishes { more, ..Wishes::default() }).await;
    let mut agent = TestAgent::prepare("press-1").without_docker();
    agent.enroll_at(&hub).await;
    agent.up().await;
    let mut operator = hub.operator().await;
    operator.host_when("press-1", "the host is online", |h| h.link() == pb::Link::Online).await;
    let door = door_certificate(&hub).await;
    let before = host_validity(&agent);
    for _ in 0..2 {
        let (began, end) = host_validity(&agent);
        let (next, _) = eventually_within(Duration::from_secs(180), "the host's certificate is renewed", async || {
            let now = host_validity(&agent);
            when(now.1 > end, now)?;
            Ok::<_, String>(now)
        })
        .await;
        // Both begin a small part of a life before they were made, and at a whole second.
        let age = (next - began) / (end - began);
        assert!((0.43..0.75).contains(&age), "renewed after {age} of its life");
    }
    // The first certificates have ended by now, on both sides.
    eventually_within(Duration::from_secs(120), "the first certificate has ended", async || {
        when(redforge_shared::clock::Clock::now(&redforge_shared::clock::SystemClock) > before.1, before.1)
    })
    .await;
    assert_ne!(door_certificate(&hub).await, door, "the door still shows its first certificate");
    let mut operator = hub.operator().await;
    operator
        .host_when("press-1", "the host is online with its new certificate", |h| h.link() == pb::Link::Online)
        .await;
    assert!(hub.process.as_mut().is_some_and(Process::is_running), "the hub was restarted for it");
    assert!(agent.process.as_mut().is_some_and(Process::is_running), "the agent was restarted for it");
    // Nobody came back as somebody else.
    assert_eq!(one(&hub, "SELECT count(*) FROM host").await, 1);
}

/// From when to when the host's certificate is valid, by the agent's own file.
fn host_validity(agent: &TestAgent) -> (time::OffsetDateTime, time::OffsetDateTime) {
    let path = agent.state().join("identity");
    let identity =
        redforge_edge::identity::IdentityDir::open(path.parent().expect("a state folder")).expect("readable");
    identity.enrolled().expect("readable").expect("enrolled").validity().expect("a certificate")
}

/// An agent waits for the hub's first word before it speaks (a refusal of its certificate would come then): a door that
/// waits as well costs every enrollment and every connection the whole patience of the agent.
#[tokio::test]
async fn the_agents_door_speaks_first() {
    use tokio::io::AsyncReadExt as _;
    let hub = TestHub::start().await;
    let mut stream = silent_guest(&hub).await;
    let mut first = [0; 9];
    let read = tokio::time::timeout(std::time::Duration::from_secs(60), stream.read_exact(&mut first)).await;
    read.expect("the door waits for us").expect("the door closed");
    assert_eq!(first[3], 4, "HTTP/2 begins with SETTINGS");
}

/// What the agents' door shows to somebody who trusts nobody yet.
async fn door_certificate(hub: &TestHub) -> Vec<u8> {
    silent_guest(hub).await.get_ref().1.peer_certificates().expect("a chain")[0].to_vec()
}

/// The agents' door after the handshake of somebody without a certificate.
async fn silent_guest(hub: &TestHub) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
    let trust = redforge_shared::tls::Trust::Roots(redforge_tests::operator::roots(&hub.root_pem()));
    let config = redforge_shared::tls::client_config(trust, None, time::OffsetDateTime::UNIX_EPOCH).expect("good");
    let tcp = tokio::net::TcpStream::connect(("127.0.0.1", hub.agents_port)).await.expect("the door is open");
    let name = rustls_pki_types::ServerName::try_from(redforge_shared::tls::HUB_NAME).expect("a name");
    tokio_rustls::TlsConnector::from(std::sync::Arc::new(config)).connect(name, tcp).await.expect("TLS")
}
