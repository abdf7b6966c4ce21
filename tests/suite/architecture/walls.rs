//! Who may import what. One row per room; every row is tripped by a plant in `planted`.
use super::{
    Breach,
    sources::{Parsed, Source, external_crates, in_room, module_of},
};

/// One row of the table.
struct Wall {
    rule: &'static str,
    rooms: &'static [&'static str],
    /// Paths that no file of the rooms may reach.
    never: &'static [&'static str],
    /// If not empty: the only external crates the rooms may name.
    crates: &'static [&'static str],
    /// If not empty: the only paths of the own package the rooms may name.
    own: &'static [&'static str],
    /// May the rooms be async?
    pure: bool,
}

const PLAIN: Wall = Wall { rule: "", rooms: &[], never: &[], crates: &[], own: &[], pure: false };

/// I/O, time and randomness of the standard library.
const WORLD: &[&str] = &[
    "std::fs",
    "std::net::TcpStream",
    "std::net::TcpListener",
    "std::net::UdpSocket",
    "std::net::ToSocketAddrs",
    "std::process",
    "std::thread",
    "std::env",
    "std::io",
    "std::time::SystemTime",
    "std::time::Instant",
    "time::OffsetDateTime::now_utc",
    "uuid::Uuid::new_v4",
    "uuid::Uuid::now_v7",
    "redforge_shared::clock",
    "redforge_shared::daemon",
    "redforge_shared::tls",
    "redforge_shared::wire",
];

const DOMAIN_CRATES: &[&str] = &[
    "redforge_shared",
    "serde",
    "serde_json",
    "serde_json_canonicalizer",
    "serde_saphyr",
    "serde_path_to_error",
    "uuid",
    "time",
    "thiserror",
    "sha2",
    "hex",
    "flate2",
    "tar",
];

const WALLS: &[Wall] = &[
    Wall {
        rule: "shared-domain",
        rooms: &[
            "shared/src/ids",
            "shared/src/desired",
            "shared/src/report",
            "shared/src/record",
            "shared/src/policy",
            "shared/src/route",
            "shared/src/manifest",
            "shared/src/units",
            "shared/src/flows",
            "shared/src/artifact",
        ],
        never: &[
            "redforge_shared::wire",
            "redforge_shared::tls",
            "redforge_shared::daemon",
            "redforge_shared::clock",
            "std::fs",
            "std::net::TcpStream",
            "std::net::TcpListener",
            "std::net::UdpSocket",
            "std::env",
        ],
        crates: DOMAIN_CRATES,
        pure: true,
        ..PLAIN
    },
    Wall {
        rule: "shared-wire",
        rooms: &["shared/src/wire"],
        never: &["redforge_shared::daemon", "redforge_shared::tls", "redforge_shared::clock", "std::env", "std::fs"],
        crates: &[
            "prost",
            "prost_types",
            "tonic",
            "tonic_prost",
            "thiserror",
            "time",
            "uuid",
            "serde_json",
            "redforge_shared",
        ],
        pure: true,
        ..PLAIN
    },
    Wall {
        rule: "hub-fleet-pure",
        rooms: &["hub/src/fleet"],
        never: WORLD,
        crates: DOMAIN_CRATES,
        own: &["redforge_hub::fleet"],
        pure: true,
    },
    Wall {
        rule: "agent-plan-pure",
        rooms: &["edge-agent/src/reconcile/plan", "edge-agent/src/router/decide"],
        never: WORLD,
        crates: DOMAIN_CRATES,
        own: &["redforge_edge::reconcile::plan", "redforge_edge::router::decide"],
        pure: true,
    },
    Wall {
        rule: "hub-store",
        rooms: &["hub/src/store"],
        never: &[
            "redforge_hub::fleet",
            "redforge_hub::api",
            "redforge_hub::grpc",
            "redforge_hub::rest",
            "redforge_hub::web",
            "redforge_hub::tasks",
            "redforge_hub::serve",
            "axum",
            "tonic",
            "hyper",
        ],
        ..PLAIN
    },
    Wall {
        rule: "hub-api",
        rooms: &["hub/src/api"],
        never: &[
            "redforge_hub::grpc",
            "redforge_hub::rest",
            "redforge_hub::web",
            "redforge_hub::serve",
            "redforge_hub::tasks",
            "axum",
            "tonic",
            "hyper",
        ],
        ..PLAIN
    },
    Wall {
        rule: "hub-doors",
        rooms: &["hub/src/grpc/admin", "hub/src/rest", "hub/src/web"],
        never: &["redforge_hub::fleet", "redforge_hub::store", "redforge_hub::tasks", "redforge_hub::pki"],
        ..PLAIN
    },
    Wall {
        rule: "hub-doors-apart",
        rooms: &["hub/src/grpc/admin"],
        never: &["redforge_hub::rest", "redforge_hub::web"],
        ..PLAIN
    },
    Wall {
        rule: "hub-doors-apart",
        rooms: &["hub/src/rest"],
        never: &["redforge_hub::grpc", "redforge_hub::web"],
        ..PLAIN
    },
    Wall {
        rule: "hub-doors-apart",
        rooms: &["hub/src/web"],
        never: &["redforge_hub::grpc", "redforge_hub::rest"],
        ..PLAIN
    },
    Wall {
        rule: "hub-agents-door",
        rooms: &[
            "hub/src/grpc/enrollment",
            "hub/src/grpc/control",
            "hub/src/grpc/telemetry",
            "hub/src/grpc/artifacts",
            "hub/src/tasks",
        ],
        never: &["redforge_hub::rest", "redforge_hub::web"],
        ..PLAIN
    },
    Wall { rule: "agent-reconcile", rooms: &["edge-agent/src/reconcile"], never: &["redforge_edge::link"], ..PLAIN },
    Wall {
        rule: "agent-workload",
        rooms: &["edge-agent/src/workload"],
        never: &["redforge_edge::db", "redforge_edge::link"],
        ..PLAIN
    },
    Wall {
        rule: "agent-collect",
        rooms: &["edge-agent/src/collect", "edge-agent/src/gateway", "edge-agent/src/router"],
        never: &["redforge_edge::link", "redforge_edge::reconcile"],
        ..PLAIN
    },
    Wall {
        rule: "agent-link",
        rooms: &["edge-agent/src/link"],
        never: &[
            "redforge_edge::reconcile",
            "redforge_edge::runtime",
            "redforge_edge::collect",
            "redforge_edge::privacy",
        ],
        ..PLAIN
    },
    Wall {
        rule: "ctl-public-api-only",
        rooms: &["hub/ctl/src"],
        never: &["redforge_hub", "redforge_edge", "sqlx", "rusqlite"],
        ..PLAIN
    },
    Wall { rule: "hub-and-agent-apart", rooms: &["hub/src"], never: &["redforge_edge"], ..PLAIN },
    Wall { rule: "hub-and-agent-apart", rooms: &["edge-agent/src"], never: &["redforge_hub"], ..PLAIN },
    Wall {
        rule: "checker-independent",
        rooms: &["tests/src/bin"],
        never: &["redforge_hub", "redforge_edge", "redforge_shared", "redforge_tests"],
        ..PLAIN
    },
    // What RedForge is measured against is made of nothing that is RedForge's.
    Wall {
        rule: "limits-independent",
        rooms: &["tests/bench/limits"],
        never: &["redforge_hub", "redforge_edge", "redforge_shared", "redforge_tests"],
        crates: &["anyhow", "tokio", "rusqlite", "sqlx", "rustls", "serde", "serde_json"],
        ..PLAIN
    },
];

/// A crate or path that only some rooms may name, within the product's sources.
struct Kept {
    rule: &'static str,
    what: &'static str,
    rooms: &'static [&'static str],
}

const KEPT: &[Kept] = &[
    Kept { rule: "bollard-only-in-docker", what: "bollard", rooms: &["edge-agent/src/runtime/docker"] },
    Kept {
        rule: "rumqttc-only-in-collectors",
        what: "rumqttc",
        rooms: &["edge-agent/src/collect/mqtt", "edge-agent/src/router", "edge-agent/src/workload/probe"],
    },
    Kept { rule: "sqlx-only-in-store", what: "sqlx", rooms: &["hub/src/store"] },
    Kept { rule: "rusqlite-only-in-db", what: "rusqlite", rooms: &["edge-agent/src/db"] },
    Kept { rule: "rusqlite-only-in-db", what: "rusqlite_migration", rooms: &["edge-agent/src/db"] },
    Kept {
        rule: "env-only-in-config",
        what: "std::env",
        rooms: &["hub/src/config", "edge-agent/src/config", "hub/ctl/src/config"],
    },
];

const PRODUCT: &[&str] = &["hub/src", "hub/ctl/src", "edge-agent/src", "shared/src"];

/// Rooms that later issues build: their walls stand already.
const LATER: &[&str] = &[
    "edge-agent/src/gateway",
    "edge-agent/src/router",
    "edge-agent/src/router/decide",
    "hub/src/rest",
    "shared/src/route",
];

/// Rooms whose walls would guard nothing if they were gone.
pub fn rooms_that_must_exist() -> impl Iterator<Item = &'static str> {
    let rooms = WALLS.iter().flat_map(|w| w.rooms).chain(KEPT.iter().flat_map(|k| k.rooms)).copied();
    rooms.filter(|r| !LATER.contains(r))
}

/// Rooms of later issues that have come: they must be taken off the list.
pub fn rooms_that_came() -> impl Iterator<Item = &'static str> {
    LATER.iter().copied()
}

fn reaches(path: &str, target: &str) -> bool {
    path.strip_prefix(target).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// Adds every breach of the walls in one file.
pub fn check(file: &Source, parsed: &Parsed, found: &mut Vec<Breach>) {
    let externals = external_crates();
    let mut add = |rule, line, what: String| found.push(Breach { rule, path: file.path.clone(), line, what });
    for wall in WALLS.iter().filter(|w| w.rooms.iter().any(|r| in_room(&file.path, r))) {
        for (line, path) in &parsed.paths {
            let first = path.split("::").next().unwrap_or_default();
            let own = module_of(&file.path).map(|(name, _)| name);
            let foreign = own != Some(first)
                && externals.contains(first)
                && !wall.crates.is_empty()
                && !wall.crates.contains(&first);
            let outside = own == Some(first) && !wall.own.is_empty() && !wall.own.iter().any(|o| reaches(path, o));
            if foreign || outside || wall.never.iter().any(|n| reaches(path, n)) {
                add(wall.rule, *line, format!("names {path}"));
            }
        }
        if wall.pure {
            parsed.asynchronous.iter().for_each(|line| add(wall.rule, *line, "is async".into()));
            for (line, name) in &parsed.macros {
                if matches!(name.as_str(), "println" | "eprintln" | "print" | "eprint") {
                    add(wall.rule, *line, format!("calls {name}!"));
                }
            }
        }
    }
    if !PRODUCT.iter().any(|p| in_room(&file.path, p)) {
        return;
    }
    for line in &parsed.root_imports {
        add("no-root-import", *line, "imports the crate's root, behind which every room can be named".into());
    }
    for (line, path) in parsed.handed_on.iter().filter(|(_, p)| KEPT.iter().any(|k| reaches(p, k.what))) {
        add("kept-is-not-handed-on", *line, format!("hands {path} on to rooms that may not name it"));
    }
    for kept in KEPT.iter().filter(|k| !k.rooms.iter().any(|r| in_room(&file.path, r))) {
        // What the build was made for is a constant, not the environment.
        let is_constant = |p: &str| reaches(p, "std::env::consts");
        for (line, path) in parsed.paths.iter().filter(|(_, p)| reaches(p, kept.what) && !is_constant(p)) {
            add(kept.rule, *line, format!("names {path}"));
        }
    }
}
