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
        let mut stream = admin.list_records(request).await?.into_inner();
        while let Some(r) = stream.message().await? {
            if a.follow {
                print_arriving(&r, a.output)?;
            } else {
                found.push(r);
            }
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
    if a.follow { Ok(()) } else { listing.print(a.output) }
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
    let mut stream = admin.list_records(request).await?.into_inner();
    let mut newest_first = Vec::new();
    while let Some(r) = stream.message().await? {
        if a.follow {
            print(&r);
        } else {
            newest_first.push(r);
        }
    }
    if newest_first.is_empty() && !a.follow {
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
