//! Decisions about replicas on the wire.
use super::pb;
use crate::{
    report::{ScaleLimit, ScaleMetric},
    scale::Scaled,
};

impl From<Scaled> for pb::ScaleStatus {
    fn from(s: Scaled) -> Self {
        Self {
            replicas: s.replicas,
            metric: pb::ScaleMetric::from(s.metric).into(),
            measured: s.measured,
            target: s.target,
            limit: pb::ScaleLimit::from(s.limit).into(),
        }
    }
}

impl Scaled {
    /// A decision of a newer agent that this build has no words for is none.
    pub fn from_wire(s: &pb::ScaleStatus) -> Option<Self> {
        Some(Self {
            replicas: s.replicas,
            metric: ScaleMetric::from_wire(s.metric)?,
            measured: s.measured,
            target: s.target,
            limit: ScaleLimit::from_wire(s.limit)?,
        })
    }
}
