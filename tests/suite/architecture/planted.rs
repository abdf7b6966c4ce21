//! Breaches on purpose, one for every rule: the rule must be named, and the innocent twin must pass.
use super::{Source, check};

fn rules_of(path: &str, text: &str) -> Vec<&'static str> {
    let text =
        if path.ends_with(".rs") { format!("//! A file that was planted by the test.\n{text}") } else { text.into() };
    let mut rules: Vec<_> = check(&[Source { path: path.into(), text }]).into_iter().map(|b| b.rule).collect();
    rules.dedup();
    rules
}

/// (rule, file, breach)
const PLANTS: &[(&str, &str, &str)] = &[
    ("shared-domain", "shared/src/record.rs", "use tokio::sync::watch;"),
    ("shared-domain", "shared/src/desired.rs", "pub async fn fetch() {}"),
    ("shared-domain", "shared/src/ids.rs", "fn f() { let _ = crate::wire::pb::Link::default(); }"),
    ("shared-wire", "shared/src/wire/record.rs", "use sqlx::PgPool;"),
    ("shared-wire", "shared/src/wire.rs", "fn f() { crate::clock::SystemClock; }"),
    ("hub-fleet-pure", "hub/src/fleet/render.rs", "use crate::store::Store;"),
    ("hub-fleet-pure", "hub/src/fleet/enroll.rs", "fn f() { tracing::info!(\"seen\"); }"),
    ("hub-fleet-pure", "hub/src/fleet.rs", "fn f() -> std::time::Instant { std::time::Instant::now() }"),
    ("hub-fleet-pure", "hub/src/fleet/liveness.rs", "fn f() { println!(\"seen\"); }"),
    ("hub-fleet-pure", "hub/src/fleet/render.rs", "use super::super::store;"),
    ("agent-plan-pure", "edge-agent/src/reconcile/plan.rs", "use tokio::time;"),
    ("agent-plan-pure", "edge-agent/src/reconcile/plan/steps.rs", "use crate::runtime::Runtime;"),
    ("agent-plan-pure", "edge-agent/src/router/decide.rs", "fn f() -> u8 { rand::random() }"),
    ("hub-store", "hub/src/store/hosts.rs", "use crate::fleet::render;"),
    ("hub-store", "hub/src/store/hosts.rs", "fn f() { format!(\"{}\", tonic::Code::Ok); }"),
    ("hub-api", "hub/src/api/sites.rs", "use axum::Json;"),
    ("hub-api", "hub/src/api.rs", "fn f(s: crate::sessions::Sessions, g: crate::grpc::admin::Service) {}"),
    ("hub-doors", "hub/src/grpc/admin.rs", "use crate::{api, store::Store};"),
    ("hub-doors", "hub/src/web/hosts.rs", "use crate::fleet;"),
    ("hub-doors-apart", "hub/src/web.rs", "use crate::grpc::admin;"),
    ("hub-doors-apart", "hub/src/rest.rs", "use crate::web;"),
    ("hub-doors-apart", "hub/src/grpc/admin/records.rs", "use crate::rest::Door;"),
    ("hub-agents-door", "hub/src/grpc/telemetry.rs", "use crate::web;"),
    ("hub-agents-door", "hub/src/tasks/prune.rs", "use crate::rest;"),
    ("agent-reconcile", "edge-agent/src/reconcile/execute.rs", "use crate::link::upload;"),
    ("agent-workload", "edge-agent/src/workload/ollama.rs", "use crate::db::ledger::Ledger;"),
    ("agent-workload", "edge-agent/src/workload/ollama.rs", "fn f() { crate::link::wake(); }"),
    ("agent-collect", "edge-agent/src/collect/logs.rs", "use crate::reconcile::Reconciler;"),
    ("agent-collect", "edge-agent/src/gateway.rs", "use crate::link;"),
    ("agent-link", "edge-agent/src/link/upload.rs", "use crate::privacy::Released;"),
    ("agent-link", "edge-agent/src/link.rs", "use crate::runtime::Runtime;"),
    ("ctl-public-api-only", "hub/ctl/src/main.rs", "use redforge_hub::api;"),
    ("hub-and-agent-apart", "hub/src/sessions.rs", "use redforge_edge::db;"),
    ("hub-and-agent-apart", "edge-agent/src/run.rs", "use redforge_hub::api;"),
    ("checker-independent", "tests/src/bin/checker.rs", "use redforge_shared::ids::Epoch;"),
    ("limits-independent", "tests/bench/limits/src/sqlite.rs", "use redforge_edge::db::outbox::Outbox;"),
    ("limits-independent", "tests/bench/limits/src/copy.rs", "fn f() { redforge_shared::ids::Epoch([0; 16]); }"),
    ("limits-independent", "tests/bench/limits/src/main.rs", "use bollard::Docker;"),
    (
        "limits-need-nothing-of-ours",
        "tests/bench/limits/Cargo.toml",
        "[dependencies]\nredforge-edge.workspace = true\n",
    ),
    (
        "limits-need-nothing-of-ours",
        "tests/bench/limits/Cargo.toml",
        "[build-dependencies]\nanything = { path = \"../../hub\" }\n",
    ),
    ("bollard-only-in-docker", "edge-agent/src/reconcile/execute.rs", "use bollard::Docker;"),
    ("rumqttc-only-in-collectors", "edge-agent/src/collect/logs.rs", "use rumqttc::AsyncClient;"),
    ("sqlx-only-in-store", "hub/src/tasks/prune.rs", "use sqlx::PgPool;"),
    ("rusqlite-only-in-db", "edge-agent/src/link/session.rs", "use rusqlite::Connection;"),
    ("env-only-in-config", "hub/src/serve.rs", "fn f() { std::env::var(\"HOME\"); }"),
    ("sql-only-in-store", "hub/src/api/hosts.rs", "const Q: &str = \"SELECT id FROM host\";"),
    ("sql-only-in-store", "edge-agent/src/link.rs", "fn f() { run!(\"update host set name = 'x'\"); }"),
    ("senders", "edge-agent/src/page.rs", "use redforge_shared::wire::pb::telemetry_client::TelemetryClient;"),
    ("released-only-by-the-gate", "edge-agent/src/collect/mqtt.rs", "fn f() { send(Released { bytes }) }"),
    ("released-only-by-the-gate", "edge-agent/src/db/outbox.rs", "fn f() { Released::forge(b) }"),
    ("no-root-import", "edge-agent/src/collect/mqtt.rs", "use crate::*; fn f() { link::wake(); }"),
    ("no-root-import", "edge-agent/src/collect/mqtt.rs", "use crate as c; fn f() { c::link::wake(); }"),
    ("no-root-import", "edge-agent/src/collect/mqtt.rs", "use crate::{self as c, db}; fn f() { c::link::wake(); }"),
    ("no-root-import", "hub/src/api/sites.rs", "use super::super::*; fn f(p: web::Parts) {}"),
    ("no-root-import", "hub/src/tasks/prune.rs", "extern crate self as all; fn f(p: all::web::Parts) {}"),
    ("sqlx-only-in-store", "hub/src/tasks/prune.rs", "extern crate sqlx as db; fn f(p: db::PgPool) {}"),
    ("kept-is-not-handed-on", "hub/src/store.rs", "pub use sqlx as db;"),
    ("kept-is-not-handed-on", "edge-agent/src/db.rs", "pub(crate) use rusqlite::{Connection, params};"),
    ("no-mod-rs", "hub/src/store/mod.rs", ""),
    ("banned-name", "hub/src/util.rs", ""),
    ("banned-name", "edge-agent/src/common/paths.rs", ""),
    ("parses", "hub/src/pki.rs", "fn ("),
    ("nothing-outside-the-clone", "Makefile", concat!("demo:\n\tcat ..", "/shared/lab.sh")),
];

#[test]
fn every_planted_breach_is_named_by_its_rule() {
    for (rule, path, text) in PLANTS {
        let rules = rules_of(path, text);
        assert!(rules.contains(rule), "{path}: {text:?} should break '{rule}', found {rules:?}");
    }
}

#[test]
fn a_file_without_header_and_a_very_long_file_are_named() {
    let headless = Source { path: "hub/src/pki.rs".into(), text: "fn main() {}\n".into() };
    assert_eq!(check(&[headless])[0].rule, "file-header");
    let text = format!("//! A file that is long on purpose.\n{}", "fn f() {}\n".repeat(501));
    assert_eq!(check(&[Source { path: "hub/src/pki.rs".into(), text }])[0].rule, "file-length");
}

#[test]
fn innocent_twins_pass() {
    let innocent = [
        ("hub/src/fleet/render.rs", "use redforge_shared::desired::DesiredState; use super::Sheet;"),
        ("hub/src/fleet/render.rs", "#[cfg(test)] mod tests { use tokio::time; use crate::store::Store; }"),
        ("hub/src/store/hosts.rs", "fn f() { sqlx::query(\"SELECT id FROM host\"); }"),
        ("edge-agent/src/runtime/docker.rs", "use bollard::Docker;"),
        ("edge-agent/src/link/upload.rs", "use redforge_shared::wire::pb::telemetry_client::TelemetryClient;"),
        ("edge-agent/src/privacy.rs", "fn f() { Released { bytes } }"),
        ("hub/src/api/hosts.rs", "fn f() { error(\"select one host from the list\") }"),
        ("hub/ctl/src/main.rs", "use redforge_shared::wire::pb;"),
        ("hub/src/config.rs", "fn f() { std::env::var(\"HOME\"); }"),
        ("tests/bench/limits/src/copy.rs", "use sqlx::PgConnection; use crate::p50_p99; use std::time::Instant;"),
        (
            "tests/bench/limits/Cargo.toml",
            "[package]\nname = \"bench-limits\"\n[dependencies]\nsqlx.workspace = true\n",
        ),
        ("tests/bench/outbox.rs", "use redforge_edge::db::outbox::Outbox;"),
    ];
    for (path, text) in innocent {
        assert_eq!(rules_of(path, text), Vec::<&str>::new(), "{path}: {text}");
    }
}

#[test]
fn no_rule_is_without_its_plant() {
    let known: std::collections::BTreeSet<&str> = PLANTS.iter().map(|(rule, ..)| *rule).collect();
    for rule in ["walls", "words"] {
        let path = super::sources::root().join(format!("tests/suite/architecture/{rule}.rs"));
        let text = std::fs::read_to_string(path).expect("the rules lie beside this file");
        for line in text.lines() {
            let named = line
                .split_once("rule: \"")
                .or_else(|| line.split_once("add(\""))
                .and_then(|(_, rest)| rest.split_once('"'))
                .map(|(name, _)| name)
                .filter(|name| !name.is_empty() && !matches!(*name, "file-header" | "file-length"));
            if let Some(name) = named {
                assert!(known.contains(name), "rule '{name}' has no plant");
            }
        }
    }
}
