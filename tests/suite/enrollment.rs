//! A host gets its identity once, and nobody else gets it.
use redforge_shared::wire::pb;
use redforge_tests::{
    agent::TestAgent,
    hub::TestHub,
    operator::channel,
    place::text,
    proxy::{Proxy, Weather},
    wait::{eventually, when},
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

/// What the agents' door says to a session that comes with this certificate.
async fn knock(hub: &TestHub, identity: Option<redforge_shared::tls::Identity>) -> String {
    redforge_shared::daemon::install_crypto();
    let trust = redforge_shared::tls::Trust::Roots(redforge_tests::operator::roots(&hub.root_pem()));
    let config = redforge_shared::tls::client_config(trust, identity, time::OffsetDateTime::UNIX_EPOCH).expect("good");
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
    let answer = knock(&hub, None).await;
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
    let answer =
        knock(&hub, Some(redforge_shared::tls::Identity { chain: vec![certificate.der().clone()], key })).await;
    assert!(!answer.starts_with("served"), "{answer}");
}
