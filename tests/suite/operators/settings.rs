//! The hub's settings and its commands by hand: what cannot be used is said by its key before a port opens.
use redforge_tests::{
    ctl::Ctl,
    hub::TestHub,
    place::{binary, command, folder, free_port, run, text},
};
use std::{net::TcpStream, path::Path, process::Output, time::Duration};

const PATIENCE: Duration = Duration::from_secs(60);

fn hub(args: &[&str], config: Option<&Path>, env: &[(&str, &str)]) -> Output {
    let mut c = command(&binary("redforge-hub"));
    c.args(args).envs(env.iter().copied());
    if let Some(config) = config {
        c.arg("--config").arg(config);
    }
    run(&mut c, PATIENCE)
}

/// Every key, once with a value that it cannot have, and what the refusal must name.
const WRONG: &[(&str, &str)] = &[
    ("port_base = 65534", "port_base"),
    ("port_base = 0", "port_base"),
    ("[agents]\nlisten = 'nowhere'", "agents.listen"),
    ("[agents]\npublic_url = 'http://hub:7443'", "agents.public_url"),
    ("[agents]\npublic_url = 'https://hub; rm -rf /'", "agents.public_url"),
    ("[agents]\npublic_url = 'https://'", "agents.public_url"),
    ("[operators]\nlisten = '127.0.0.1'", "operators.listen"),
    ("[operators]\nconnection_age_s = 4", "operators.connection_age_s"),
    ("[operators]\nlisten = '127.0.0.1:7443'", "operators.listen: 127.0.0.1:7443 is taken by agents.listen"),
    ("[metrics]\nlisten = ':80'", "metrics.listen"),
    ("[metrics]\nlisten = '127.0.0.1:3000'", "metrics.listen"),
    ("[database]\nurl = 'mysql://x/y'", "database.url"),
    ("[database]\nmax_connections = 1", "database.max_connections"),
    ("[database]\ndirect_url = 'postgres://a/b'", "database.direct_url"),
    ("[state]\ndir = ''", "state.dir"),
    ("[state]\nrun_dir = ''", "state.run_dir"),
    ("[state]\ndir = 7", "dir = 7"),
    ("[search]\nembed_url = 'nowhere'", "search.embed_url"),
    ("[search]\nstandin = 'perhaps'", "standin"),
    ("[artifacts]\nurl = 's3://bucket'", "artifacts.url"),
    ("[artifacts]\nmax_blob_bytes = 1", "artifacts.max_blob_bytes"),
    ("[pki]\nhost_cert_life_s = 59", "pki.host_cert_life_s"),
    ("[pki]\nserver_cert_life_s = 59", "pki.server_cert_life_s"),
    ("[session]\nheartbeat_interval_ms = 99", "session.heartbeat_interval_ms"),
    ("[session]\nhub_rpo_s = 2592001", "session.hub_rpo_s"),
    ("[session]\nconnection_age_s = 0", "session.connection_age_s"),
    ("[session]\nmax_connections = 0", "session.max_connections"),
    ("[postgres]\nbin = '/nowhere/at/all'", "postgres.bin"),
    ("[retention]\nvector_days = 36501", "retention.vector_days"),
    ("[retention]\nlog_days = -1", "log_days"),
    ("[retention]\nevent_days = 36501", "retention.event_days"),
    ("[retention]\nmeasurement_days = 36501", "retention.measurement_days"),
    ("[log]\nfilter = 'info,=,'", "log.filter"),
    ("[log]\nformat = 'xml'", "log.format"),
    ("[log]\nfromat = 'json'", "fromat"),
    ("[nothing]\nx = 1", "nothing"),
    ("[log", "TOML"),
];

#[test]
fn each_key_wrong_ends_with_64_says_the_key_and_opens_no_port() {
    let dir = folder();
    let config = dir.path().join("hub.toml");
    for (lines, named) in WRONG {
        std::fs::write(&config, lines).expect("own folder");
        for verb in [&["dev", "--state"][..], &["config", "check", "--state"]] {
            let state = dir.path().join("state").display().to_string();
            // A key about the folder itself must not be answered by the flag.
            let args = if lines.starts_with("[state]\ndir") {
                verb[..verb.len() - 1].to_vec()
            } else {
                [verb, &[&state]].concat()
            };
            let out = hub(&args, Some(&config), &[]);
            let said = text(&out);
            assert_eq!(out.status.code(), Some(64), "{lines}: {said}");
            assert!(said.contains(named) || (*named == "TOML" && said.contains("hub.toml")), "{lines}: {said}");
        }
        // Before a port opens comes before a folder is made.
        assert!(!dir.path().join("state").exists(), "{lines}: something began");
    }
    let missing = hub(&["serve"], Some(&dir.path().join("none.toml")), &[]);
    assert_eq!(missing.status.code(), Some(64), "{}", text(&missing));
    assert!(text(&missing).contains("none.toml"), "{}", text(&missing));
    let no_database = hub(&["serve"], None, &[]);
    assert_eq!(no_database.status.code(), Some(64), "{}", text(&no_database));
    assert!(text(&no_database).contains("database.url") && text(&no_database).contains("redforge-hub dev"));
    let usage = hub(&["dance"], None, &[]);
    assert_eq!(usage.status.code(), Some(64), "{}", text(&usage));
}

#[test]
fn the_environment_overrides_the_file_and_is_refused_by_variable() {
    let dir = folder();
    let config = dir.path().join("hub.toml");
    std::fs::write(&config, "port_base = 17000\n[database]\nurl = 'postgres://hub:s3cret@db/redforge'\n").expect("own");
    let good = hub(
        &["config", "check"],
        Some(&config),
        &[("REDFORGE_HUB__PORT_BASE", "18000"), ("REDFORGE_HUB__LOG__FILTER", "redforge_hub=debug"), ("OTHER", "x")],
    );
    let said = text(&good);
    assert!(good.status.success(), "{said}");
    assert!(said.contains("agents 0.0.0.0:18000, operators 127.0.0.1:18001, metrics 127.0.0.1:18002"), "{said}");
    assert!(said.contains("hub:****@db") && !said.contains("s3cret"), "{said}");
    for (variable, value) in [
        ("REDFORGE_HUB__AGENTS__LISTN", "127.0.0.1:1"),
        ("REDFORGE_HUB__SESSION__HUB_RPO_S", "soon"),
        ("REDFORGE_HUB__A__B__C", "1"),
    ] {
        let bad = hub(&["config", "check"], Some(&config), &[(variable, value)]);
        assert_eq!(bad.status.code(), Some(64), "{variable}: {}", text(&bad));
        assert!(text(&bad).contains(variable), "{variable}: {}", text(&bad));
    }
}

#[tokio::test]
async fn a_hub_is_made_by_hand_on_a_database_that_is_there() {
    // As the how-to says it: migrate, pki init, admin token create, serve.
    let mut hub = TestHub::prepare(redforge_tests::hub::Wishes::default());
    hub.verb = "serve";
    let migrated = hub.tool(&["migrate"]);
    assert!(migrated.status.success() && text(&migrated).contains("the schema is up to date"), "{}", text(&migrated));
    let pki = hub.tool(&["pki", "init"]);
    assert!(pki.status.success(), "{}", text(&pki));
    let pin = String::from_utf8_lossy(&pki.stdout).trim().to_owned();
    assert!(pin.starts_with("sha256:") && pin.len() == 71, "{pin}");
    let again = hub.tool(&["pki", "init"]);
    assert_eq!(String::from_utf8_lossy(&again.stdout).trim(), pin, "a second init made another root");
    let admin = hub.tool(&["admin", "token", "create", "--name", "ann", "--role", "admin", "--days", "30"]);
    assert!(admin.status.success(), "{}", text(&admin));
    let token = String::from_utf8_lossy(&admin.stdout).trim().to_owned();
    hub.up().await;
    let said = hub.process.as_ref().expect("it runs").said().join("\n");
    assert!(!said.contains(&token) && !said.contains("login "), "serve prints no secret: {said}");
    let ctl = Ctl::with_token(&hub, &token);
    assert_eq!(ctl.run(&["get", "hosts", "-o", "json"]).json(), serde_json::json!([]));
    // The same hub is trusted by its pin alone.
    let url = format!("https://127.0.0.1:{}", hub.operators_port);
    let mut by_pin = command(&binary("redforgectl"));
    by_pin.args(["get", "sites", "--hub", &url, "--token", &token, "--ca-pin", &pin]);
    let out = run(by_pin.env("XDG_CONFIG_HOME", ctl.dir()), PATIENCE);
    assert!(out.status.success(), "{}", text(&out));
    // A token that leaked is ended, and nothing else with it.
    let other = hub.tool(&["admin", "token", "create", "--name", "leaked", "--role", "operator"]);
    let leaked = Ctl::with_token(&hub, String::from_utf8_lossy(&other.stdout).trim());
    leaked.run(&["get", "hosts"]).good();
    let listed = text(&hub.tool(&["admin", "token", "list"]));
    assert!(
        listed.contains("ann\tadmin") && listed.contains("leaked\toperator") && !listed.contains(&token),
        "{listed}"
    );
    let revoked = hub.tool(&["admin", "token", "revoke", "--name", "leaked"]);
    assert!(revoked.status.success(), "{}", text(&revoked));
    leaked.run(&["get", "hosts"]).bad(5);
    ctl.run(&["get", "hosts"]).good();
    assert_eq!(hub.tool(&["admin", "token", "revoke", "--name", "leaked"]).status.code(), Some(1));
    let second = hub.tool(&["serve"]);
    assert!(
        !second.status.success() && text(&second).contains("another hub runs on the state folder"),
        "{}",
        text(&second)
    );
}

#[tokio::test]
async fn a_busy_port_is_named() {
    let port = free_port();
    let _taken = std::net::TcpListener::bind(("127.0.0.1", port)).expect("it is free");
    let mut hub = TestHub::prepare(redforge_tests::hub::Wishes::default());
    hub.env = vec![("REDFORGE_HUB__OPERATORS__LISTEN".into(), format!("127.0.0.1:{port}"))];
    hub.spawn();
    let process = hub.process.as_mut().expect("spawned");
    redforge_tests::wait::eventually("the hub ends", async || process.ended().ok_or("it runs")).await;
    let said = process.said().join("\n");
    assert!(said.contains(&format!("listening on 127.0.0.1:{port} for operators")), "{said}");
    assert!(TcpStream::connect(("127.0.0.1", hub.agents_port)).is_err());
}
