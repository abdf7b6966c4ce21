//! Resources as rows and as JSON. A status that is old is never shown as good.
use crate::{
    output::{Cell, Listing, Tone, cell, toned},
    words,
};
use redforge_shared::{
    report::{Progress, Reason, explained},
    scale::Scaled,
    standin,
    units::human_bytes,
    wire::{self, pb},
};
use serde_json::{Value, json};

fn tone(word: &str) -> Tone {
    match word {
        "Online" | "Healthy" | "UpToDate" | "Running" => Tone::Good,
        "Stale" | "Degraded" | "Updating" | "OutOfDate" | "Drifted" | "Paused" | "Pending" | "Pulling" | "Starting"
        | "Stopping" => Tone::Warn,
        "Offline" | "Error" | "Failed" | "RolledBack" | "Crashed" => Tone::Bad,
        _ => Tone::Faint,
    }
}

/// A status word; when its host is not online it is what was last known.
fn status(word: String, fresh: bool) -> Cell {
    match (word.is_empty() || word == "Unknown", fresh) {
        (true, _) => toned("Unknown", Tone::Faint),
        (_, true) => {
            let t = tone(&word);
            toned(word, t)
        }
        (_, false) => toned(format!("Unknown (was {word})"), Tone::Faint),
    }
}

fn why(reason: i32, names: &[String]) -> String {
    let reason = words::reason(reason);
    if names.is_empty() { reason } else { format!("{reason}: {}", names.join(", ")) }
}

/// The reason of its status, with what ran out of time and the numbers of what did not fit; and who holds it at its site.
fn instance_why(s: &pb::InstanceStatus) -> String {
    let told = explained(Reason::from_wire(s.reason), &s.names, Some(&*s.detail).filter(|d| !d.is_empty()));
    let mut text = why(s.reason, &Some(told).filter(|t| !t.is_empty()).into_iter().collect::<Vec<_>>());
    if let Some(p) = s.preflight.as_ref().filter(|_| s.reason() == pb::StatusReason::PreflightRefused) {
        text = format!("{}: {}", words::reason(s.reason), wire::preflight(p).map(|p| p.refusal()).unwrap_or_default());
    }
    if s.late != 0 {
        text = format!("{text} (out of time: {})", words::step(s.late));
    }
    let Some(h) = &s.hold else { return text };
    let held = format!("held by {} until {}: {}", h.by, words::time(h.until.as_ref()), h.reason);
    if s.reason == i32::from(pb::StatusReason::Held) { held } else { format!("{text}; {held}") }
}

fn hold_json(h: &pb::Hold) -> Value {
    json!({"by": h.by, "reason": h.reason, "since": words::time(h.since.as_ref()),
           "until": words::time(h.until.as_ref()), "wholeHost": h.whole_host})
}

/// The phase, and how far a fetch is while there is one: `Pulling 43% (812.0 MiB of 1.9 GiB)`.
fn phase(s: &pb::InstanceStatus, fresh: bool) -> Cell {
    let word = words::phase(s.phase);
    match &s.progress {
        Some(p) if fresh => toned(format!("{word} {}", Progress::from(p.clone())), tone(&word)),
        _ => status(word, fresh),
    }
}

/// Why it is not as desired or, where nothing is wrong, what is being fetched.
fn reason(s: &pb::InstanceStatus) -> String {
    match (&s.progress, s.reason == 0 && s.names.is_empty() && s.hold.is_none()) {
        (Some(p), true) => p.what.clone(),
        (None, true) if s.trial_ends_at.is_some() => {
            format!("on trial until {}", words::time(s.trial_ends_at.as_ref()))
        }
        _ => instance_why(s),
    }
}

fn progress_json(p: pb::Progress) -> Value {
    let percent = Progress::from(p.clone()).percent();
    json!({"what": p.what, "doneBytes": p.done_bytes, "totalBytes": p.total_bytes, "percent": percent})
}

fn is_online(link: i32) -> bool {
    link == i32::from(pb::Link::Online)
}

/// Hosts.
pub fn hosts(all: &[pb::Host], wide: bool) -> Listing {
    let mut head = vec!["NAME", "SITE", "LINK", "HEALTH", "SYNC", "INSTANCES", "WAITING", "SEEN", "REASON"];
    if wide {
        head.extend(["GENERATION", "AGENT", "DOCKER", "DISK FREE", "CERTIFICATE UNTIL", "ID"]);
    }
    let row = |h: &pb::Host| {
        let fresh = is_online(h.link);
        // A fence is the hub's own doing: it holds however long nothing was heard.
        let fenced = h.reason == i32::from(pb::StatusReason::Fenced);
        let link = words::link(h.link);
        let waiting: u64 = h.outbox.iter().map(|o| o.waiting).sum();
        let link_tone = tone(&link);
        let mut row = vec![
            cell(words::last(&h.name)),
            cell(words::last(&h.site)),
            toned(link, link_tone),
            status(words::health(h.health), fresh),
            status(words::sync(h.sync), fresh || fenced),
            cell(format!("{}/{}", h.instances_running, h.instance_count)),
            cell(waiting.to_string()),
            cell(words::age(h.last_seen_at.as_ref())),
            cell(why(h.reason, &h.names)),
        ];
        if wide {
            let facts = h.facts.clone().unwrap_or_default();
            row.extend([
                cell(format!("{}/{}", h.observed_generation, h.generation)),
                cell(facts.agent_version),
                cell(facts.docker_version),
                cell(human_bytes(facts.disk_free_bytes)),
                cell(words::time(h.certificate_not_after.as_ref())),
                cell(&h.id),
            ]);
        }
        row
    };
    let objects: Vec<Value> = all.iter().map(host_json).collect();
    Listing {
        head,
        rows: all.iter().map(row).collect(),
        names: all.iter().map(|h| h.name.clone()).collect(),
        manifests: objects.clone(),
        objects,
        single: false,
        empty: "No host has enrolled yet. `redforgectl token create --site NAME` prints the line that enrolls one.",
    }
}

fn host_json(h: &pb::Host) -> Value {
    let outbox = |o: &pb::OutboxStatus| {
        json!({"class": words::class(o.class), "waiting": o.waiting, "waitingBytes": o.waiting_bytes,
               "refused": o.refused, "absorbed": o.absorbed, "lost": o.lost})
    };
    let facts = h.facts.clone().unwrap_or_default();
    json!({
        "name": h.name, "id": h.id, "site": h.site, "link": words::link(h.link), "health": words::health(h.health),
        "sync": words::sync(h.sync), "reason": words::reason(h.reason), "names": h.names,
        "lastSeenAt": words::time(h.last_seen_at.as_ref()), "reportAgeS": h.report_age_s, "generation": h.generation,
        "observedGeneration": h.observed_generation, "instanceCount": h.instance_count,
        "instancesRunning": h.instances_running, "enrolledAt": words::time(h.enrolled_at.as_ref()),
        "certificateNotAfter": words::time(h.certificate_not_after.as_ref()), "specSha256": h.spec_sha256,
        "facts": {"hostname": facts.hostname, "architecture": facts.architecture, "kernel": facts.kernel,
            "agentVersion": facts.agent_version, "dockerVersion": facts.docker_version,
            "dockerApiVersion": facts.docker_api_version, "cpus": facts.cpus,
            "memoryTotalBytes": facts.memory_total_bytes, "diskFreeBytes": facts.disk_free_bytes,
            "diskTotalBytes": facts.disk_total_bytes},
        "outbox": h.outbox.iter().map(outbox).collect::<Vec<_>>(),
        "cleanUp": clean_up_json(h.clean_up.as_ref()),
    })
}

/// What the host removes by itself; null: its agent does not say.
fn clean_up_json(c: Option<&pb::CleanUp>) -> Value {
    let Some(c) = c else { return Value::Null };
    let unneeded = |u: &pb::Unneeded| {
        let removed_at = u.removed_at.as_ref().map(|t| words::time(Some(t)));
        json!({"kind": words::leftover(u.kind), "name": u.name, "bytes": u.bytes, "removedAt": removed_at})
    };
    json!({
        "unneeded": c.unneeded.iter().map(unneeded).collect::<Vec<_>>(), "count": c.count, "bytes": c.bytes,
        "removed": {"images": c.removed_images, "models": c.removed_models, "volumes": c.removed_volumes,
            "blobs": c.removed_blobs},
        "short": c.short,
    })
}

/// `hosts/h/instances/i` as (h, i).
pub fn instance_parts(name: &str) -> (&str, &str) {
    let mut parts = name.split('/').skip(1).step_by(2);
    (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
}

/// Containers that do what they shall, of how many; nothing while nobody reported.
fn ready(s: &pb::InstanceStatus, fresh: bool) -> Cell {
    let counts = format!("{}/{}", s.replicas_ready, s.replicas_desired);
    match (s.replicas_desired == 0 && s.replicas_total == 0, fresh) {
        (true, _) => cell(""),
        (_, false) => toned(format!("was {counts}"), Tone::Faint),
        (_, true) if s.replicas_ready < s.replicas_desired => toned(counts, Tone::Warn),
        (_, true) => cell(counts),
    }
}

/// Why it has as many containers as it has.
fn scaling(s: &pb::InstanceStatus) -> String {
    s.scaled.as_ref().and_then(Scaled::from_wire).map_or_else(String::new, |s| s.to_string())
}

fn scaled_json(s: &pb::InstanceStatus) -> Value {
    s.scaled.as_ref().map_or(Value::Null, |d| {
        json!({"replicas": d.replicas, "metric": words::scale_metric(d.metric), "measured": d.measured,
               "target": d.target, "limit": words::scale_limit(d.limit), "text": scaling(s)})
    })
}

/// Instances.
pub fn instances(all: &[pb::Instance], wide: bool) -> Listing {
    let mut head = vec!["HOST", "NAME", "KIND", "READY", "PHASE", "HEALTH", "SYNC", "REVISION", "REPORTED", "REASON"];
    if wide {
        head.extend(["IMAGE", "MEMORY", "CPU", "RESTARTS", "CONTAINER", "PREFLIGHT", "SCALING"]);
    }
    let row = |i: &pb::Instance| {
        let (host, name) = instance_parts(&i.name);
        let s = i.status.clone().unwrap_or_default();
        let fresh = is_online(i.host_link);
        let reported = if i.report_age_s < 0 { String::new() } else { words::seconds(i.report_age_s) };
        let mut row = vec![
            cell(host),
            cell(name),
            cell(standin::kind(&i.kind, image(&spec(i)))),
            ready(&s, fresh),
            phase(&s, fresh),
            status(words::health(s.health), fresh),
            status(words::sync(s.sync), fresh),
            cell(i.revision.to_string()),
            cell(reported),
            cell(reason(&s)),
        ];
        if wide {
            row.extend([
                cell(image(&spec(i))),
                cell(if s.memory_limit_bytes == 0 { String::new() } else { human_bytes(s.memory_limit_bytes) }),
                cell(if s.cpu_limit_millicores == 0 { String::new() } else { format!("{}m", s.cpu_limit_millicores) }),
                cell(s.restarts.to_string()),
                cell(s.container_id.chars().take(12).collect::<String>()),
                cell(s.preflight.as_ref().map(|p| words::verdict(p.verdict)).unwrap_or_default()),
                cell(scaling(&s)),
            ]);
        }
        row
    };
    Listing {
        head,
        rows: all.iter().map(row).collect(),
        names: all.iter().map(|i| i.name.clone()).collect(),
        objects: all.iter().map(instance_json).collect(),
        manifests: all.iter().map(instance_manifest).collect(),
        single: false,
        empty: "There is no instance yet. `redforgectl apply -f FILE` creates them from manifests.",
    }
}

fn spec(i: &pb::Instance) -> Value {
    serde_json::from_str(&i.spec_json).unwrap_or_default()
}

fn image(spec: &Value) -> &str {
    spec["image"].as_str().unwrap_or_default()
}

/// What `apply` takes: YAML of an instance goes back in unchanged.
pub fn instance_manifest(i: &pb::Instance) -> Value {
    let mut metadata = json!({"name": words::last(&i.name)});
    if !i.labels.is_empty() {
        metadata["labels"] = json!(i.labels.iter().collect::<std::collections::BTreeMap<_, _>>());
    }
    json!({"apiVersion": "redforge.io/v1", "kind": "Instance", "metadata": metadata, "spec": spec(i)})
}

fn instance_json(i: &pb::Instance) -> Value {
    let mut object = instance_manifest(i);
    object["name"] = json!(i.name);
    object["revision"] = json!(i.revision);
    object["createdAt"] = json!(words::time(i.created_at.as_ref()));
    object["updatedAt"] = json!(words::time(i.updated_at.as_ref()));
    object["ollamaStandin"] = json!(standin::is_image(image(&spec(i))));
    object["hostLink"] = json!(words::link(i.host_link));
    object["reportAgeS"] = json!(i.report_age_s);
    object["status"] = i.status.as_ref().map_or(Value::Null, |s| {
        json!({"phase": words::phase(s.phase), "health": words::health(s.health), "sync": words::sync(s.sync),
               "reason": words::reason(s.reason), "names": s.names, "containerId": s.container_id,
               "restarts": s.restarts, "exitCode": s.exit_code, "changedAt": words::time(s.changed_at.as_ref()),
               "memoryLimitBytes": s.memory_limit_bytes, "cpuLimitMillicores": s.cpu_limit_millicores,
               "messagesDropped": s.messages_dropped, "hold": s.hold.as_ref().map_or(Value::Null, hold_json),
               "preflight": s.preflight.as_ref().map(preflight_json), "late": words::step(s.late),
               "nextStartAt": words::time(s.next_start_at.as_ref()),
               "trialEndsAt": words::time(s.trial_ends_at.as_ref()), "progress": s.progress.clone().map(progress_json),
               "replicas": {"ready": s.replicas_ready, "desired": s.replicas_desired, "total": s.replicas_total},
               "scaled": scaled_json(s), "detail": s.detail})
    });
    object
}

fn preflight_json(p: &pb::Preflight) -> Value {
    let finding = |f: &pb::PreflightFinding| {
        json!({"check": words::check(f.check), "verdict": words::verdict(f.verdict), "needed": f.needed,
               "available": f.available, "names": f.names})
    };
    json!({"verdict": words::verdict(p.verdict), "findings": p.findings.iter().map(finding).collect::<Vec<_>>()})
}

/// Sites.
pub fn sites(all: &[pb::Site]) -> Listing {
    let labels = |s: &pb::Site| {
        let mut l: Vec<_> = s.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
        l.sort();
        l.join(",")
    };
    let row = |s: &pb::Site| {
        vec![
            cell(words::last(&s.name)),
            cell(&s.policy),
            cell(&s.time_zone),
            cell(s.host_count.to_string()),
            cell(words::age(s.created_at.as_ref())),
            cell(labels(s)),
        ]
    };
    let object = |s: &pb::Site| {
        json!({"name": s.name, "labels": s.labels, "timeZone": s.time_zone, "policy": s.policy,
               "hostCount": s.host_count, "createdAt": words::time(s.created_at.as_ref())})
    };
    Listing {
        head: vec!["NAME", "POLICY", "TIME ZONE", "HOSTS", "AGE", "LABELS"],
        rows: all.iter().map(row).collect(),
        names: all.iter().map(|s| s.name.clone()).collect(),
        objects: all.iter().map(object).collect(),
        manifests: all.iter().map(site_manifest).collect(),
        single: false,
        empty: "There is no site yet. Apply a manifest of kind Site.",
    }
}

/// What `apply` takes.
pub fn site_manifest(s: &pb::Site) -> Value {
    let mut metadata = json!({"name": words::last(&s.name)});
    if !s.labels.is_empty() {
        metadata["labels"] = json!(s.labels.iter().collect::<std::collections::BTreeMap<_, _>>());
    }
    json!({"apiVersion": "redforge.io/v1", "kind": "Site", "metadata": metadata,
           "spec": {"timeZone": s.time_zone, "policy": s.policy}})
}

/// Flow sets.
pub fn flow_sets(all: &[pb::FlowSet]) -> Listing {
    let row = |f: &pb::FlowSet| {
        vec![
            cell(words::last(&f.name)),
            cell(f.revision.to_string()),
            cell(f.digest.chars().take(12).collect::<String>()),
            cell(f.node_count.to_string()),
            cell(human_bytes(f.size_bytes)),
            cell(words::age(f.created_at.as_ref())),
            if f.draft_count > 0 { toned(f.draft_count.to_string(), Tone::Warn) } else { cell("0") },
            cell(f.credential_names.join(", ")),
        ]
    };
    let object = |f: &pb::FlowSet| {
        json!({"name": f.name, "digest": f.digest, "revision": f.revision, "sizeBytes": f.size_bytes,
               "nodeCount": f.node_count, "draftCount": f.draft_count, "credentialNames": f.credential_names,
               "createdAt": words::time(f.created_at.as_ref())})
    };
    let objects: Vec<Value> = all.iter().map(object).collect();
    Listing {
        head: vec!["NAME", "REVISION", "DIGEST", "NODES", "SIZE", "AGE", "DRAFTS", "CREDENTIALS LEFT OUT"],
        rows: all.iter().map(row).collect(),
        names: all.iter().map(|f| f.name.clone()).collect(),
        manifests: objects.clone(),
        objects,
        single: false,
        empty: "There is no flow set yet. `redforgectl flowset push NAME flows.json` brings one.",
    }
}

/// Collections.
pub fn collections(all: &[pb::Collection]) -> Listing {
    let row = |c: &pb::Collection| {
        vec![
            cell(&c.name),
            cell(standin::model(&c.model)),
            cell(c.dim.to_string()),
            cell(&c.metric),
            cell(format!("{}{}", if c.vectors_estimated { "~" } else { "" }, c.vectors)),
            cell(c.pending.to_string()),
            cell(&c.index),
        ]
    };
    let object = |c: &pb::Collection| {
        json!({"name": c.name, "model": c.model, "ollamaStandin": standin::is_model(&c.model), "modelDigest": c.model_digest, "dim": c.dim, "metric": c.metric,
               "vectors": c.vectors, "vectorsEstimated": c.vectors_estimated, "pending": c.pending, "index": c.index,
               "documentPrefix": c.document_prefix, "queryPrefix": c.query_prefix})
    };
    let objects: Vec<Value> = all.iter().map(object).collect();
    Listing {
        head: vec!["NAME", "MODEL", "DIM", "METRIC", "VECTORS", "PENDING", "INDEX"],
        rows: all.iter().map(row).collect(),
        names: all.iter().map(|c| c.name.clone()).collect(),
        manifests: objects.clone(),
        objects,
        single: false,
        empty: "No vector has arrived yet.",
    }
}

/// Events.
pub fn events(all: &[pb::Event]) -> Listing {
    let row = |e: &pb::Event| {
        let kind = if e.warning { toned("Warning", Tone::Warn) } else { cell("Normal") };
        vec![
            cell(words::age(e.at.as_ref())),
            kind,
            cell(&e.reason),
            cell(&e.resource),
            cell(&e.actor),
            cell(&e.message),
        ]
    };
    let object = |e: &pb::Event| {
        json!({"at": words::time(e.at.as_ref()), "reason": e.reason, "warning": e.warning, "resource": e.resource,
               "actor": e.actor, "message": e.message})
    };
    let objects: Vec<Value> = all.iter().map(object).collect();
    Listing {
        head: vec!["AGE", "TYPE", "REASON", "RESOURCE", "ACTOR", "MESSAGE"],
        rows: all.iter().map(row).collect(),
        names: all.iter().map(|e| e.resource.clone()).collect(),
        manifests: objects.clone(),
        objects,
        single: false,
        empty: "Nothing has happened yet.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pull_shows_how_far_it_is_while_its_host_is_heard() {
        let progress = pb::Progress { what: "redis:7".into(), done_bytes: 812 << 20, total_bytes: 1945 << 20 };
        let status = pb::InstanceStatus {
            phase: pb::Phase::Pulling.into(),
            progress: Some(progress),
            ..pb::InstanceStatus::default()
        };
        let instance = |link: pb::Link| pb::Instance {
            name: "hosts/press-1/instances/cache".into(),
            kind: "container".into(),
            host_link: link.into(),
            status: Some(status.clone()),
            ..pb::Instance::default()
        };
        let texts = |link| -> Vec<String> {
            let listing = instances(&[instance(link)], false);
            listing.rows[0].iter().map(|c| c.text.clone()).collect()
        };
        let online = texts(pb::Link::Online);
        assert!(online.contains(&"Pulling 41% (812.0 MiB of 1.9 GiB)".into()), "{online:?}");
        assert_eq!(online.last().map(String::as_str), Some("redis:7"));
        let offline = texts(pb::Link::Offline);
        assert!(offline.contains(&"Unknown (was Pulling)".into()), "{offline:?}");
        let json = instance_json(&instance(pb::Link::Online));
        let said = &json["status"]["progress"];
        assert_eq!((said["percent"].as_u64(), said["doneBytes"].as_u64()), (Some(41), Some(812 << 20)));
    }
}
