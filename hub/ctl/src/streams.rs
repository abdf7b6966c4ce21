//! `streams`: what arrived of what was sent, per host and class, or per epoch.
use crate::{
    cli::Streams,
    config::Connection,
    connection,
    failure::Outcome,
    output::{Listing, Tone, cell, toned},
    words,
};
use redforge_shared::wire::pb;
use serde_json::json;
use std::collections::BTreeMap;

/// Shows the streams.
pub async fn run(settings: &Connection, a: &Streams) -> Outcome {
    let host = words::host_filter(a.host.as_ref())?;
    let mut admin = connection::connect(settings).await?;
    crate::get::check_host(&mut admin, &host).await?;
    let mut all = admin.list_streams(pb::ListStreamsRequest { host }).await?.into_inner().streams;
    if !a.epochs {
        all = by_class(all);
    }
    listing(&all, a.epochs).print(a.output)
}

/// Sums the epochs of each host and class.
fn by_class(all: Vec<pb::Stream>) -> Vec<pb::Stream> {
    let mut sums: BTreeMap<(String, i32), pb::Stream> = BTreeMap::new();
    for s in all {
        let sum = sums.entry((s.host.clone(), s.class)).or_insert_with(|| pb::Stream {
            host: s.host.clone(),
            class: s.class,
            first_seen_at: s.first_seen_at,
            ..Default::default()
        });
        sum.committed += s.committed;
        sum.max_seq += s.max_seq;
        sum.gaps += s.gaps;
        sum.lost += s.lost;
        sum.resent += s.resent;
        sum.ranges += s.ranges;
        if s.last_commit_at.map(|t| (t.seconds, t.nanos)) > sum.last_commit_at.map(|t| (t.seconds, t.nanos)) {
            sum.last_commit_at = s.last_commit_at;
        }
    }
    sums.into_values().collect()
}

fn listing(all: &[pb::Stream], epochs: bool) -> Listing {
    let mut head = vec!["HOST", "CLASS", "COMMITTED", "SENT", "GAPS", "LOST", "RESENT", "LAST COMMIT"];
    if epochs {
        head.extend(["RANGES", "EPOCH"]);
    }
    let alarm = |n: u64, tone| if n > 0 { toned(n.to_string(), tone) } else { cell("0") };
    let row = |s: &pb::Stream| {
        let mut row = vec![
            cell(words::last(&s.host)),
            cell(words::class(s.class)),
            cell(s.committed.to_string()),
            cell(s.max_seq.to_string()),
            alarm(s.gaps, Tone::Warn),
            alarm(s.lost, Tone::Bad),
            cell(s.resent.to_string()),
            cell(words::age(s.last_commit_at.as_ref())),
        ];
        if epochs {
            row.extend([cell(s.ranges.to_string()), cell(&s.epoch)]);
        }
        row
    };
    let object = |s: &pb::Stream| {
        json!({"host": s.host, "class": words::class(s.class), "epoch": s.epoch, "streamId": s.stream_id,
               "committed": s.committed, "maxSeq": s.max_seq, "gaps": s.gaps, "lost": s.lost, "resent": s.resent,
               "ranges": s.ranges, "firstSeenAt": words::time(s.first_seen_at.as_ref()),
               "lastCommitAt": words::time(s.last_commit_at.as_ref())})
    };
    let objects: Vec<_> = all.iter().map(object).collect();
    let name = |s: &pb::Stream| format!("{}/streams/{}/{}", s.host, words::class(s.class), s.epoch);
    Listing {
        head,
        rows: all.iter().map(row).collect(),
        names: all.iter().map(name).collect(),
        manifests: objects.clone(),
        objects,
        single: false,
        empty: "No record has arrived yet.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output;

    #[test]
    fn epochs_add_up_per_host_and_class() {
        let stream = |class: pb::RecordClass, n: u64| pb::Stream {
            host: "hosts/press-4".into(),
            class: class.into(),
            epoch: format!("{n:032x}"),
            committed: n,
            max_seq: n + 2,
            gaps: 2,
            resent: n,
            ranges: 1,
            ..Default::default()
        };
        let all =
            vec![stream(pb::RecordClass::Log, 5), stream(pb::RecordClass::Vector, 7), stream(pb::RecordClass::Log, 10)];
        let table = |l: &Listing| output::table(&l.head, &l.rows, false).join("\n");
        insta::assert_snapshot!(table(&listing(&by_class(all.clone()), false)), @r"
        HOST     CLASS   COMMITTED  SENT  GAPS  LOST  RESENT  LAST COMMIT
        press-4  vector  7          9     2     0     7       -
        press-4  log     15         19    4     0     15      -
        ");
        assert!(table(&listing(&all, true)).contains("0000000a"));
    }
}
