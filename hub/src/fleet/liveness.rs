//! How alive a link is: one missed heartbeat makes it Stale, three make it Offline.
use redforge_shared::report::Link;
use std::time::Duration;
use time::OffsetDateTime;

/// The link of a host that was last heard at `seen`. A heartbeat counts as missed half an interval after it was due.
pub fn link(seen: Option<OffsetDateTime>, now: OffsetDateTime, heartbeat: Duration) -> Link {
    let Some(seen) = seen else { return Link::NeverSeen };
    let age = now - seen;
    if age > heartbeat * 3 + heartbeat / 2 {
        Link::Offline
    } else if age > heartbeat + heartbeat / 2 {
        Link::Stale
    } else {
        Link::Online
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missed_heartbeats_are_counted() {
        let at = OffsetDateTime::UNIX_EPOCH;
        let beat = Duration::from_secs(10);
        assert_eq!(link(None, at, beat), Link::NeverSeen);
        for (age_s, expected) in
            [(0, Link::Online), (14, Link::Online), (16, Link::Stale), (34, Link::Stale), (36, Link::Offline)]
        {
            assert_eq!(link(Some(at), at + Duration::from_secs(age_s), beat), expected, "{age_s}");
        }
        assert_eq!(link(Some(at + beat), at, beat), Link::Online, "a clock that stepped back");
    }
}
