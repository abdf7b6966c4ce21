//! What an agent must be told about its desired state, given what both sides hold.
use redforge_shared::ids::Digest;

/// What the hub holds for the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hub {
    pub generation: u64,
    pub sha256: Digest,
    /// An operator has not resumed the host yet.
    pub paused: bool,
}

/// What the agent says it accepted; generation 0 = nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agent {
    pub generation: u64,
    pub sha256: Option<Digest>,
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Both hold the same.
    Nothing,
    /// Send the whole document.
    Send,
    /// Same content under a higher number of ours: only the number is sent.
    RaiseAgent,
    /// Same content under a higher number of theirs: our number follows.
    RaiseHub(u64),
    /// The agent has what we do not: an operator decides, nothing is sent.
    HubBehind,
}

/// Decides. No spec is ever downgraded by itself.
pub fn decide(hub: Option<Hub>, agent: Agent) -> Delivery {
    let Some(hub) = hub else {
        return if agent.generation == 0 { Delivery::Nothing } else { Delivery::HubBehind };
    };
    let same = agent.sha256 == Some(hub.sha256);
    if hub.paused {
        return Delivery::HubBehind;
    }
    match agent.generation.cmp(&hub.generation) {
        std::cmp::Ordering::Less if same => Delivery::RaiseAgent,
        std::cmp::Ordering::Less => Delivery::Send,
        std::cmp::Ordering::Equal if same => Delivery::Nothing,
        std::cmp::Ordering::Greater if same => Delivery::RaiseHub(agent.generation),
        // The same number for other content is as wrong as a higher one: it was counted by another history.
        std::cmp::Ordering::Equal | std::cmp::Ordering::Greater => Delivery::HubBehind,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_of_the_table() {
        let (x, y) = (Digest::of(b"x"), Digest::of(b"y"));
        let hub = |generation, sha256| Some(Hub { generation, sha256, paused: false });
        let agent = |generation, sha256| Agent { generation, sha256 };
        for (h, a, expected) in [
            (None, agent(0, None), Delivery::Nothing),
            (None, agent(3, Some(x)), Delivery::HubBehind),
            (hub(1, x), agent(0, None), Delivery::Send),
            (hub(2, x), agent(1, Some(y)), Delivery::Send),
            (hub(2, x), agent(1, Some(x)), Delivery::RaiseAgent),
            (hub(2, x), agent(2, Some(x)), Delivery::Nothing),
            (hub(2, x), agent(5, Some(x)), Delivery::RaiseHub(5)),
            (hub(2, x), agent(5, Some(y)), Delivery::HubBehind),
            (hub(2, x), agent(2, Some(y)), Delivery::HubBehind),
            (Some(Hub { generation: 9, sha256: x, paused: true }), agent(1, Some(y)), Delivery::HubBehind),
        ] {
            assert_eq!(decide(h, a), expected, "{h:?} {a:?}");
        }
    }
}
