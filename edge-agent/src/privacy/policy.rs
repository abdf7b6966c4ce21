//! Which classes a policy lets out. PURE.
use redforge_shared::{policy::Policy, record::RecordClass};

/// May flows that were edited at the host leave the site?
pub(super) fn drafts_may_leave(policy: Policy) -> bool {
    match policy {
        Policy::Open => true,
    }
}

/// May records of this class leave the site?
pub(super) fn may_leave(policy: Policy, _class: RecordClass) -> bool {
    match policy {
        Policy::Open => true,
    }
}
