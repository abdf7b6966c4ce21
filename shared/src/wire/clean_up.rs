//! What a host removes by itself, on the wire.
use super::{from_timestamp, pb, report::bounded, timestamp};
use crate::report::clean_up::{CleanUp, Leftover, MAX_UNNEEDED, Removed, Unneeded};

impl From<&CleanUp> for pb::CleanUp {
    fn from(c: &CleanUp) -> Self {
        let unneeded = c.unneeded.iter().take(MAX_UNNEEDED).map(|u| pb::Unneeded {
            kind: pb::Leftover::from(u.kind).into(),
            name: bounded(&u.name),
            bytes: u.bytes,
            removed_at: u.removed_at.map(timestamp),
        });
        Self {
            unneeded: unneeded.collect(),
            count: c.count,
            bytes: c.bytes,
            removed_images: c.removed.images,
            removed_models: c.removed.models,
            removed_volumes: c.removed.volumes,
            removed_blobs: c.removed.blobs,
            short: c.short,
        }
    }
}

impl From<pb::CleanUp> for CleanUp {
    /// A kind of a newer agent is left out of the list, and counted.
    fn from(c: pb::CleanUp) -> Self {
        let unneeded = c.unneeded.iter().take(MAX_UNNEEDED).filter_map(|u| {
            Some(Unneeded {
                kind: Leftover::from_wire(u.kind)?,
                name: bounded(&u.name),
                bytes: u.bytes,
                removed_at: u.removed_at.as_ref().and_then(|t| from_timestamp("removed_at", Some(t)).ok()),
            })
        });
        Self {
            unneeded: unneeded.collect(),
            count: c.count,
            bytes: c.bytes,
            removed: Removed {
                images: c.removed_images,
                models: c.removed_models,
                volumes: c.removed_volumes,
                blobs: c.removed_blobs,
            },
            short: c.short,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn what_is_said_arrives_and_what_is_not_known_is_left_out() {
        let one = |kind, removed_at| Unneeded { kind, name: "a:1".into(), bytes: 7, removed_at };
        let all = vec![one(Leftover::Image, Some(datetime!(2026-11-24 10:00 UTC))), one(Leftover::Volume, None)];
        let said = CleanUp::of(all, Removed { images: 1, models: 2, volumes: 3, blobs: 4 }, true);
        let mut wire = pb::CleanUp::from(&said);
        assert_eq!(CleanUp::from(wire.clone()), said);
        wire.unneeded[0].kind = 99;
        wire.unneeded[1].name = "x".repeat(500);
        let heard = CleanUp::from(wire);
        assert_eq!((heard.unneeded.len(), heard.count, heard.unneeded[0].name.len()), (1, 2, 128));
    }
}
