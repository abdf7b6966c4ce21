//! Who may use a Node-RED's editor: asked by the runtime itself at each login, and again and again afterwards.
//!
//! The answer comes from the accepted desired state and the clock, so that an editor closes on time with the hub away, and
//! from one row of the ledger: a password opens once. Only hashes are here. It does not know Node-RED or HTTP: `collect::http`
//! carries question and answer, `workload/node_red/editor.js` asks.
use crate::db::ledger::{Ledger, LedgerError};
use redforge_shared::{
    clock::SharedClock,
    desired::{Developer, Workload},
    ids::{Digest, Name},
};
use std::sync::Arc;
use time::OffsetDateTime;
use tokio::sync::Mutex;

/// Ledger rows: the hash of the password that was used last, by instance.
const USED: &str = "editor_used";

/// Why nobody gets in, or does no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// The instance is not in developer mode, or its time is over.
    Fleet,
    /// Another user than the one of this developer mode.
    Stranger,
    WrongPassword,
    /// The password is right and was used.
    Used,
}

/// Until when somebody is in.
pub type Verdict = Result<OffsetDateTime, Closed>;

/// Is this user the one of this developer mode?
fn admit(developer: Option<&Developer>, now: OffsetDateTime, user: &str) -> Result<(OffsetDateTime, Digest), Closed> {
    let open = developer.filter(|d| d.is_open(now)).ok_or(Closed::Fleet)?;
    let (Some(name), Some(hash)) = (open.user(), open.password_sha256) else { return Err(Closed::Stranger) };
    if name == user { Ok((open.until, hash)) } else { Err(Closed::Stranger) }
}

/// May this user log in with this password?
fn login(
    developer: Option<&Developer>,
    used: Option<Digest>,
    now: OffsetDateTime,
    (user, password): (&str, &str),
) -> Result<(OffsetDateTime, Digest), Closed> {
    let (until, hash) = admit(developer, now, user)?;
    // Compared by hash: how long it takes says nothing about the password.
    if Digest::of(password.as_bytes()) != hash {
        return Err(Closed::WrongPassword);
    }
    if used == Some(hash) { Err(Closed::Used) } else { Ok((until, hash)) }
}

/// May this user go on? Only who logged in.
fn stay(developer: Option<&Developer>, used: Option<Digest>, now: OffsetDateTime, user: &str) -> Verdict {
    let (until, hash) = admit(developer, now, user)?;
    if used == Some(hash) { Ok(until) } else { Err(Closed::Stranger) }
}

/// Answers for every instance of the host.
#[derive(Clone, Debug)]
pub struct Desk {
    ledger: Ledger,
    clock: SharedClock,
    /// Two logins at once must not both find the password unused.
    one: Arc<Mutex<()>>,
}

impl Desk {
    pub fn new(ledger: Ledger, clock: SharedClock) -> Self {
        Self { ledger, clock, one: Arc::default() }
    }

    /// Lets this user in, once: that it was is committed before it is said.
    pub async fn login(&self, instance: &Name, user: &str, password: &str) -> Result<Verdict, LedgerError> {
        let _one = self.one.lock().await;
        let (developer, used) = (self.developer(instance), self.used(instance).await?);
        let verdict = login(developer.as_ref(), used, self.clock.now(), (user, password));
        if let Ok((_, hash)) = verdict {
            let row = hash.to_string().into_bytes();
            self.ledger.memory_set(USED, instance.as_str(), Some(&row)).await?;
        }
        match &verdict {
            Ok((until, _)) => tracing::info!(instance.name = %instance, %until, "a person logged in to the editor"),
            Err(why) => tracing::warn!(instance.name = %instance, ?why, "a login to the editor was refused"),
        }
        Ok(verdict.map(|(until, _)| until))
    }

    /// Says whether this user, who has logged in, may go on.
    pub async fn stay(&self, instance: &Name, user: &str) -> Result<Verdict, LedgerError> {
        let (developer, used) = (self.developer(instance), self.used(instance).await?);
        Ok(stay(developer.as_ref(), used, self.clock.now(), user))
    }

    fn developer(&self, instance: &Name) -> Option<Developer> {
        match &self.ledger.desired()?.state.instance(instance.as_str())?.workload {
            Workload::NodeRed(n) => n.developer.clone(),
            _ => None,
        }
    }

    async fn used(&self, instance: &Name) -> Result<Option<Digest>, LedgerError> {
        let rows = self.ledger.memory_all(USED).await?;
        let row = rows.into_iter().find(|(key, _)| key == instance.as_str());
        Ok(row.and_then(|(_, value)| String::from_utf8(value).ok()?.parse().ok()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use redforge_shared::desired::user_of;
    use time::{Duration, macros::datetime};

    const NOW: OffsetDateTime = datetime!(2026-11-23 22:00 UTC);

    #[test]
    fn a_password_opens_once_in_time_and_for_its_own_user_only() {
        let hash = Digest::of(b"right");
        let user = user_of(hash);
        let open = Developer { until: NOW + Duration::HOUR, password_sha256: Some(hash) };
        let until = open.until;
        let ask = |d: Option<&Developer>, used, now, user: &str, password| {
            login(d, used, now, (user, password)).map(|(until, _)| until)
        };
        assert_eq!(ask(Some(&open), None, NOW, &user, "right"), Ok(until));
        // A used password of an earlier developer mode is another one.
        assert_eq!(ask(Some(&open), Some(Digest::of(b"old")), NOW, &user, "right"), Ok(until));
        assert_eq!(ask(Some(&open), None, NOW, &user, "wrong"), Err(Closed::WrongPassword));
        assert_eq!(ask(Some(&open), Some(hash), NOW, &user, "right"), Err(Closed::Used));
        assert_eq!(ask(Some(&open), None, NOW, "developer-00000000", "right"), Err(Closed::Stranger));
        assert_eq!(ask(Some(&open), None, NOW, "redforge-agent", "right"), Err(Closed::Stranger));
        assert_eq!(ask(Some(&open), None, until, &user, "right"), Err(Closed::Fleet));
        assert_eq!(ask(None, None, NOW, &user, "right"), Err(Closed::Fleet));
        let nobody = Developer { password_sha256: None, ..open.clone() };
        assert_eq!(ask(Some(&nobody), None, NOW, &user, "right"), Err(Closed::Stranger));

        assert_eq!(stay(Some(&open), Some(hash), NOW, &user), Ok(until));
        assert_eq!(stay(Some(&open), None, NOW, &user), Err(Closed::Stranger), "who never logged in has no place");
        assert_eq!(stay(Some(&open), Some(hash), until, &user), Err(Closed::Fleet));
        let next = Developer { password_sha256: Some(Digest::of(b"next")), ..open };
        assert_eq!(stay(Some(&next), Some(hash), NOW, &user), Err(Closed::Stranger));
    }
}
