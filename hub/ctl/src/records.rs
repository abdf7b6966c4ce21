//! `records` and `logs`: what came up, as it was committed.
use crate::{
    cli::{Class, Logs, Records},
    config::Connection,
    connection,
    failure::{Exit, Failure, Outcome},
    get,
    output::{self, Cell, Format, Listing, cell},
    views, words,
};
use clap::ValueEnum as _;
use redforge_shared::wire::pb;
use serde_json::{Value, json};
use std::{
    collections::{HashSet, VecDeque},
    time::Duration,
};

impl Class {
    fn wire(self) -> pb::RecordClass {
        match self {
            Self::Vector => pb::RecordClass::Vector,
            Self::Log => pb::RecordClass::Log,
            Self::Event => pb::RecordClass::Event,
            Self::Measurement => pb::RecordClass::Measurement,
        }
    }
}

fn body(r: &pb::Record) -> Value {
    serde_json::from_str(&r.body_json).unwrap_or_default()
}

fn object(r: &pb::Record) -> Value {
    json!({"name": r.name, "host": r.host, "class": words::class(r.class), "epoch": r.epoch, "seq": r.seq,
           "instance": r.instance, "key": r.key, "at": words::time(r.at.as_ref()),
           "receivedAt": words::time(r.received_at.as_ref()), "body": body(r)})
}

/// What a record says, in one line.
fn summary(r: &pb::Record) -> String {
    let b = body(r);
    let text = |k: &str| b.get(k).and_then(Value::as_str).unwrap_or_default().to_owned();
    match pb::RecordClass::try_from(r.class) {
        Ok(pb::RecordClass::Log) => text("line"),
        Ok(pb::RecordClass::Vector) => {
            let ordinal = b.get("ordinal").map(ToString::to_string).unwrap_or_default();
            format!("{} {}#{ordinal} {}", text("collection"), text("source"), text("text"))
        }
        Ok(pb::RecordClass::Measurement) => {
            let value = b.get("value").map(ToString::to_string).unwrap_or_default();
            format!("{} {value} {}", text("name"), text("unit"))
        }
        _ => format!("{} {}", text("name"), b.get("payload").map(ToString::to_string).unwrap_or_default()),
    }
}

const HEAD: [&str; 7] = ["RECEIVED", "HOST", "CLASS", "INSTANCE", "SEQ", "KEY", "RECORD"];

fn row(r: &pb::Record) -> Vec<Cell> {
    vec![
        cell(words::time(r.received_at.as_ref()).chars().take(19).collect::<String>()),
        cell(words::last(&r.host)),
        cell(words::class(r.class)),
        cell(&r.instance),
        cell(r.seq.to_string()),
        cell(r.key.chars().take(24).collect::<String>()),
        cell(summary(r).chars().take(100).collect::<String>()),
    ]
}

/// Lists records, or follows those of one class.
pub async fn list(settings: &Connection, a: &Records) -> Outcome {
    if a.follow && a.class.is_none() {
        return Err(Failure::new(Exit::Usage, "--follow needs a --class: vector, log, event or measurement"));
    }
    let host = words::host_filter(a.host.as_ref())?;
    let mut admin = connection::connect(settings).await?;
    get::check_host(&mut admin, &host).await?;
    let classes = a.class.map_or_else(|| Class::value_variants().to_vec(), |c| vec![c]);
    let mut found = Vec::new();
    for class in classes {
        let request = pb::ListRecordsRequest {
            host: host.clone(),
            class: class.wire().into(),
            instance: a.instance.clone().unwrap_or_default(),
            limit: a.limit,
            follow: a.follow,
            key: a.key.clone().unwrap_or_default(),
            since: a.since.map(redforge_shared::wire::timestamp),
        };
        if a.follow {
            return follow(&mut admin, request, |r| print_arriving(r, a.output)).await;
        }
        let mut stream = admin.list_records(request).await?.into_inner();
        while let Some(r) = stream.message().await? {
            found.push(r);
        }
    }
    // Newest first over all classes; within a class the hub's order stays.
    found.sort_by_key(|r| std::cmp::Reverse(r.received_at.map(|t| (t.seconds, t.nanos))));
    found.truncate(a.limit as usize);
    let objects: Vec<Value> = found.iter().map(object).collect();
    let listing = Listing {
        head: HEAD.to_vec(),
        rows: found.iter().map(row).collect(),
        names: found.iter().map(|r| r.name.clone()).collect(),
        manifests: objects.clone(),
        objects,
        single: false,
        empty: "No such record has arrived.",
    };
    listing.print(a.output)
}

/// Records that were given, so that none is given again after the hub was away.
const REMEMBERED: usize = 10_000;
/// Most that a follower is given of what is there already.
const FIRST_PAGE: u32 = 200;

/// Gives records as they arrive, for ever: a hub that goes away is dialled again, and what it has meanwhile is given once.
async fn follow(
    admin: &mut connection::Admin,
    mut request: pb::ListRecordsRequest,
    mut give: impl FnMut(&pb::Record) -> Outcome,
) -> Outcome {
    let (mut given, mut order) = (HashSet::new(), VecDeque::new());
    let mut away = false;
    loop {
        let broke = match admin.list_records(request.clone()).await {
            Ok(stream) => {
                if std::mem::take(&mut away) {
                    output::say("the hub is back");
                }
                let mut stream = stream.into_inner();
                loop {
                    match stream.message().await {
                        Ok(Some(r)) if given.insert(r.name.clone()) => {
                            order.push_back(r.name.clone());
                            if order.len() > REMEMBERED {
                                order.pop_front().map(|old| given.remove(&old));
                            }
                            give(&r)?;
                        }
                        Ok(Some(_)) => {}
                        Ok(None) => break None,
                        Err(status) => break Some(Failure::from(status)),
                    }
                }
            }
            // The first call says at once that there is no hub.
            Err(status) if order.is_empty() && !away => return Err(status.into()),
            Err(status) => Some(Failure::from(status)),
        };
        if let Some(failure) = broke {
            if failure.exit != Exit::Unreachable {
                return Err(failure);
            }
            if !std::mem::replace(&mut away, true) {
                output::say(&format!("{}; dialling again", failure.errors.join("; ")));
            }
        }
        // What came meanwhile is in the first page; what was given of it is remembered.
        request.limit = FIRST_PAGE;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Rows that arrive are not worth waiting for: each is written at once, JSON one object a line.
fn print_arriving(r: &pb::Record, format: Format) -> Outcome {
    match format {
        Format::Table | Format::Wide => {
            output::line(&output::table(&HEAD, &[row(r)], output::color_stdout())[1]);
        }
        Format::Json => output::line(&object(r).to_string()),
        Format::Yaml => output::line(&format!("---\n{}", output::yaml(&[object(r)])?.trim_end())),
        Format::Name => output::line(&r.name),
    }
    Ok(())
}

/// Prints an instance's lines, the oldest first.
pub async fn logs(settings: &Connection, a: &Logs) -> Outcome {
    let name = words::instance_name(&a.instance)?;
    let (host, instance) = views::instance_parts(&name);
    let mut admin = connection::connect(settings).await?;
    let found = get::instance(&mut admin, &name).await?;
    let collects = views::instance_manifest(&found)["spec"]["collectLogs"] == json!(true);
    let request = pb::ListRecordsRequest {
        host: format!("hosts/{host}"),
        class: pb::RecordClass::Log.into(),
        instance: instance.into(),
        limit: a.tail,
        follow: a.follow,
        key: String::new(),
        since: a.since.map(redforge_shared::wire::timestamp),
    };
    let print = |r: &pb::Record| {
        let line = output::plain(body(r).get("line").and_then(Value::as_str).unwrap_or_default());
        if a.timestamps {
            output::line(&format!("{}  {line}", words::time(r.at.as_ref())));
        } else {
            output::line(&line);
        }
    };
    if a.follow {
        return follow(&mut admin, request, |r| {
            print(r);
            Ok(())
        })
        .await;
    }
    let mut stream = admin.list_records(request).await?.into_inner();
    let mut newest_first = Vec::new();
    while let Some(r) = stream.message().await? {
        newest_first.push(r);
    }
    if newest_first.is_empty() {
        output::say(match a.since {
            Some(_) => "No line of this instance that was made since then has arrived.",
            None => "No line of this instance has arrived.",
        });
        if !collects {
            output::say("Its manifest does not say `collectLogs: true`: its lines stay on the host.");
        }
    }
    newest_first.iter().rev().for_each(print);
    Ok(())
}
