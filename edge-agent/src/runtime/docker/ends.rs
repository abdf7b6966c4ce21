//! How containers ended, as the engine's events tell it: of one that it has brought back it keeps nothing.
//!
//! A hint for people, never a decision: what is not heard is not known.
use crate::runtime::Ended;
use bollard::models::EventMessage;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

/// Most containers of which it is known; a host has fewer.
const MOST: usize = 1_000;

/// The last end of each container.
#[derive(Clone, Debug, Default)]
pub struct Ends(Arc<Mutex<BTreeMap<String, Told>>>);

#[derive(Clone, Copy, Debug, Default)]
struct Told {
    ended: Option<Ended>,
    /// Said before the end that it leads to.
    out_of_memory: bool,
    /// The end that comes is the agent's own doing.
    stopping: bool,
}

impl Ends {
    /// How this one ended last.
    pub fn of(&self, id: &str) -> Option<Ended> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(id)?.ended
    }

    /// It is about to be stopped: how it takes that says nothing of it.
    pub fn stops(&self, id: &str) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() < MOST || known.contains_key(id) {
            known.entry(id.to_owned()).or_default().stopping = true;
        }
    }

    /// Notes what an event says.
    pub fn note(&self, event: &EventMessage) {
        let (Some(action), Some(actor)) = (&event.action, &event.actor) else { return };
        let Some(id) = &actor.id else { return };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match action.as_str() {
            "oom" if known.len() < MOST => known.entry(id.clone()).or_default().out_of_memory = true,
            "die" if known.len() < MOST || known.contains_key(id) => {
                let told = known.entry(id.clone()).or_default();
                if told.stopping {
                    return;
                }
                let code = actor.attributes.as_ref().and_then(|a| a.get("exitCode")?.parse().ok());
                let out_of_memory = std::mem::take(&mut told.out_of_memory);
                told.ended = code.map(|exit_code| Ended { exit_code, out_of_memory });
            }
            "start" => {
                if let Some(told) = known.get_mut(id) {
                    told.stopping = false;
                }
            }
            "destroy" => drop(known.remove(id)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bollard::models::EventActor;

    fn event(action: &str, code: Option<&str>) -> EventMessage {
        let attributes = code.map(|c| [("exitCode".to_owned(), c.to_owned())].into());
        let actor = EventActor { id: Some("c".into()), attributes };
        EventMessage { action: Some(action.into()), actor: Some(actor), ..EventMessage::default() }
    }

    #[test]
    fn the_last_end_is_known_until_the_container_is_gone() {
        let ends = Ends::default();
        assert_eq!(ends.of("c"), None);
        ends.note(&event("die", Some("3")));
        assert_eq!(ends.of("c"), Some(Ended { exit_code: 3, out_of_memory: false }));
        ends.note(&event("oom", None));
        assert_eq!(ends.of("c").map(|e| e.exit_code), Some(3), "it has not ended by it yet");
        ends.note(&event("die", Some("137")));
        assert_eq!(ends.of("c"), Some(Ended { exit_code: 137, out_of_memory: true }));
        ends.note(&event("die", Some("1")));
        assert_eq!(ends.of("c"), Some(Ended { exit_code: 1, out_of_memory: false }));
        ends.stops("c");
        ends.note(&event("die", Some("143")));
        assert_eq!(ends.of("c").map(|e| e.exit_code), Some(1), "that was no end of its own");
        ends.note(&event("start", None));
        ends.note(&event("die", Some("4")));
        assert_eq!(ends.of("c").map(|e| e.exit_code), Some(4));
        ends.note(&event("destroy", None));
        assert_eq!(ends.of("c"), None);
    }
}
