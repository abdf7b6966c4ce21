//! Wire values as words for people: enums, ages, sizes, durations, names of resources.
use crate::failure::{Exit, Failure, Outcome};
use prost_types::Timestamp;
use redforge_shared::{
    clock::{Clock as _, SystemClock},
    ids::Name,
    wire::pb,
};
use std::time::Duration;

/// `HEALTH_UP_TO_DATE` without its prefix, as `UpToDate`.
fn word(proto: &str, prefix: &str) -> String {
    let capital = |w: &str| w.chars().take(1).chain(w[1..].to_lowercase().chars()).collect::<String>();
    match proto.strip_prefix(prefix).unwrap_or(proto) {
        "UNSPECIFIED" => String::new(),
        rest => rest.split('_').filter(|w| !w.is_empty()).map(capital).collect(),
    }
}

macro_rules! words {
    ($($(#[$doc:meta])* $name:ident: $proto:ident, $prefix:literal;)+) => {
        $($(#[$doc])* pub fn $name(v: i32) -> String {
            pb::$proto::try_from(v).map_or_else(|_| "Unknown".into(), |v| word(v.as_str_name(), $prefix))
        })+
    };
}
words! {
    /// Online, Stale, Offline, NeverSeen.
    link: Link, "LINK_";
    health: Health, "HEALTH_";
    sync: Sync, "SYNC_";
    phase: Phase, "PHASE_";
    reason: StatusReason, "STATUS_REASON_";
    verdict: PreflightVerdict, "PREFLIGHT_VERDICT_";
    check: PreflightCheck, "PREFLIGHT_CHECK_";
    step: ChangeStep, "CHANGE_STEP_";
    scale_metric: ScaleMetric, "SCALE_METRIC_";
    scale_limit: ScaleLimit, "SCALE_LIMIT_";
}

/// vector, log, event, measurement.
pub fn class(v: i32) -> String {
    redforge_shared::record::RecordClass::from_wire(v).map_or_else(|| "unknown".into(), |c| c.to_string())
}

/// What is left over, in one word.
pub fn leftover(v: i32) -> String {
    redforge_shared::report::clean_up::Leftover::from_wire(v).map_or_else(|| "unknown".into(), |l| l.to_string())
}

/// RFC 3339 in whole seconds, or nothing.
pub fn time(t: Option<&Timestamp>) -> String {
    t.and_then(|t| redforge_shared::wire::from_timestamp("time", Some(t)).ok())
        .and_then(|t| t.replace_nanosecond(0).ok())
        .and_then(|t| t.format(&time::format_description::well_known::Rfc3339).ok())
        .unwrap_or_default()
}

/// How long ago, as `12s`, `5m`, `3h`, `8d`.
pub fn age(t: Option<&Timestamp>) -> String {
    t.map(|t| seconds(SystemClock.now().unix_timestamp() - t.seconds)).unwrap_or_default()
}

/// Seconds as people say them.
pub fn seconds(s: i64) -> String {
    match s.max(0) {
        s @ 0..120 => format!("{s}s"),
        s @ 120..7_200 => format!("{}m", s / 60),
        s @ 7_200..172_800 => format!("{}h", s / 3_600),
        s => format!("{}d", s / 86_400),
    }
}

/// Reads `90s`, `5m`, `1h`, `7d`.
pub fn duration(s: &str) -> Result<Duration, String> {
    let bad = || format!("'{s}' is not a time: write 90s, 5m, 1h or 7d");
    let unit = match s.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3_600,
        Some('d') => 86_400,
        _ => return Err(bad()),
    };
    let number: u64 = s[..s.len() - 1].parse().map_err(|_| bad())?;
    number.checked_mul(unit).filter(|s| *s <= 366 * 86_400).map(Duration::from_secs).ok_or_else(bad)
}

/// A moment: so long ago, or a time of the calendar.
pub fn since(s: &str) -> Result<time::OffsetDateTime, String> {
    if let Ok(ago) = duration(s) {
        return Ok(SystemClock.now() - ago);
    }
    time::OffsetDateTime::parse(s, &time::format_description::well_known::Rfc3339)
        .map_err(|_| format!("'{s}' is not a time: write 90s, 5m, 1h, 7d, or 2026-11-23T10:00:00Z"))
}

/// A name that the user typed, with or without its collection before it.
pub fn name(typed: &str, collection: &str) -> Outcome<Name> {
    let bare = typed.strip_prefix(collection).unwrap_or(typed);
    bare.parse().map_err(|e| Failure::new(Exit::Usage, format!("{e}")))
}

/// `HOST/NAME`, or the full resource name, as hosts/{host}/instances/{name}.
pub fn instance_name(typed: &str) -> Outcome<String> {
    let parts: Vec<&str> = typed.split('/').collect();
    let (host, instance) = match parts[..] {
        [host, instance] | ["hosts", host, "instances", instance] => (host, instance),
        _ => {
            return Err(Failure::new(Exit::Usage, format!("'{typed}' does not name an instance"))
                .hint("name it HOST/INSTANCE; `redforgectl get instances -o name` lists them"));
        }
    };
    Ok(format!("hosts/{}/instances/{}", name(host, "")?, name(instance, "")?))
}

/// hosts/{host}, or nothing for every host.
pub fn host_filter(typed: Option<&String>) -> Outcome<String> {
    typed.map_or(Ok(String::new()), |h| Ok(format!("hosts/{}", name(h, "hosts/")?)))
}

/// The last part of a resource name.
pub fn last(resource: &str) -> &str {
    resource.rsplit('/').next().unwrap_or(resource)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enums_ages_and_sizes_read_well() {
        assert_eq!(sync(pb::Sync::UpToDate.into()), "UpToDate");
        assert_eq!(link(pb::Link::NeverSeen.into()), "NeverSeen");
        assert_eq!((health(0).as_str(), health(77).as_str()), ("", "Unknown"));
        assert_eq!(
            [seconds(-3), seconds(119), seconds(7_199), seconds(90_000), seconds(864_000)].join(" "),
            "0s 119s 119m 25h 10d"
        );

        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        for bad in ["", "5", "m", "-1s", "9999999999999d", "5 m"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn since_takes_an_age_or_a_time() {
        assert_eq!(since("2026-11-23T10:00:00Z"), Ok(time::macros::datetime!(2026-11-23 10:00 UTC)));
        let age = SystemClock.now() - since("5m").expect("an age");
        assert!((299..310).contains(&age.whole_seconds()), "{age}");
        for bad in ["", "yesterday", "2026-11-23", "-5m"] {
            assert!(since(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn instances_are_named_in_two_ways() {
        assert_eq!(instance_name("press-4/flows").expect("short"), "hosts/press-4/instances/flows");
        assert_eq!(instance_name("hosts/press-4/instances/flows").expect("long"), "hosts/press-4/instances/flows");
        assert!(instance_name("flows").is_err() && instance_name("a/b/c").is_err() && instance_name("A/b").is_err());
    }
}
