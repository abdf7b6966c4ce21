//! Asks every running instance's probe beside the passes, each in its own rhythm, and keeps what its answers come to.
//!
//! One task per start of a container; it ends when that start is over or is to be asked otherwise. A pass reads the word
//! that the answers come to, and is woken when the word changes. Until the first success an instance is asked often: that
//! is when somebody waits.
use super::{Reconciler, View, reduce::last_given};
use crate::{
    runtime::{ContainerSeen, ContainerState},
    workload::{
        broker_of, mosquitto,
        probe::{self, Ask, Login},
    },
};
use redforge_shared::{
    desired::{InstanceSpec, Probe},
    ids::{Digest, Name},
};
use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    sync::{Notify, watch},
    task::{AbortHandle, JoinSet},
    time::Instant,
};

/// First pause between two attempts; grows to the probe's period.
const FIRST_PAUSE: Duration = Duration::from_millis(300);

/// What the answers of one start come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// Not one success yet.
    Starting,
    /// Not one success, for longer than a working one may be silent.
    Late,
    Passes,
    /// Worked, and failed less often in a row than counts.
    Falters,
    /// Worked, and failed as often in a row as counts.
    Fails,
}

/// Pure: the word after one more attempt. `in_a_row` counts failures, this one included.
fn after(word: Word, passed: bool, in_a_row: u32, threshold: u32, late: bool) -> Word {
    match (word, passed) {
        (_, true) => Word::Passes,
        (Word::Starting | Word::Late, false) if late => Word::Late,
        (Word::Starting | Word::Late, false) => word,
        (_, false) if in_a_row >= threshold => Word::Fails,
        (_, false) => Word::Falters,
    }
}

/// A container's start: its id, since when it runs, and the flow set that it was given: other flows answer for themselves.
type Start = (String, String, Option<Digest>);

struct Asked {
    ask: Ask,
    word: watch::Receiver<Word>,
    task: AbortHandle,
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Every start that is asked.
pub struct Probes {
    asked: BTreeMap<Start, Asked>,
    tasks: JoinSet<()>,
    news: Arc<Notify>,
}

impl Probes {
    /// `news` is told when a word changes.
    pub fn new(news: Arc<Notify>) -> Self {
        Self { asked: BTreeMap::new(), tasks: JoinSet::new(), news }
    }

    /// What this start's answers come to, with the flow set that it was given.
    pub fn word(&self, c: &ContainerSeen, flow_set: Option<Digest>) -> Word {
        let asked = self.asked.get(&(c.id.clone(), c.started_at.clone(), flow_set));
        asked.map_or(Word::Starting, |a| *a.word.borrow())
    }

    /// From now on these are asked, and no others. What is asked as before goes on.
    fn keep(&mut self, wanted: BTreeMap<Start, Ask>) {
        self.asked.retain(|start, asked| wanted.get(start) == Some(&asked.ask));
        while self.tasks.try_join_next().is_some() {}
        for (start, ask) in wanted {
            let (news, tasks) = (self.news.clone(), &mut self.tasks);
            self.asked.entry(start).or_insert_with(|| {
                let (said, word) = watch::channel(Word::Starting);
                let task = tasks.spawn(ask_on(ask.clone(), said, news));
                Asked { ask, word, task }
            });
        }
    }
}

async fn ask_on(ask: Ask, said: watch::Sender<Word>, news: Arc<Notify>) {
    let began = Instant::now();
    let check = &ask.check;
    let period = Duration::from_secs(check.period_s.into());
    let (mut pause, mut in_a_row) = (FIRST_PAUSE, 0);
    loop {
        let passed = probe::passes(&ask).await;
        in_a_row = if passed { 0 } else { in_a_row + 1 };
        let late = began.elapsed() >= period * check.failure_threshold;
        let word = after(*said.borrow(), passed, in_a_row, check.failure_threshold, late);
        if said.send_if_modified(|w| std::mem::replace(w, word) != word) {
            tracing::debug!(probe = check.probe.kind(), ?word, "probe");
            news.notify_one();
        }
        pause = if matches!(word, Word::Starting) { (pause * 3 / 2).min(period) } else { period };
        tokio::time::sleep(pause).await;
    }
}

impl Reconciler {
    /// Asks what runs, as its spec says.
    pub(super) fn keep_asking(&mut self, view: &View) {
        let running = view.seen.containers.iter().filter(|c| c.state == ContainerState::Running);
        let wanted = running.filter_map(|c| {
            let spec = view.chosen.state.instance(c.instance.as_str())?;
            let ask = Ask { check: spec.check()?, address: c.address?, broker: self.login(view, spec, c) };
            let given = last_given(&view.given, c, &view.homes).map(|g| g.digest);
            Some(((c.id.clone(), c.started_at.clone(), given), ask))
        });
        let wanted = wanted.collect();
        self.probes.keep(wanted);
    }

    /// The agent's way into the broker that a probe's messages go by.
    fn login(&self, view: &View, spec: &InstanceSpec, c: &ContainerSeen) -> Option<Login> {
        let (broker, address) = match spec.check()?.probe {
            Probe::MqttEcho {} => (spec.name.clone(), c.address?),
            Probe::FlowMqtt { .. } => {
                let broker: &Name = broker_of(spec, &view.chosen.state)?;
                let serving = |b: &&ContainerSeen| b.instance == *broker && b.state == ContainerState::Running;
                (broker.clone(), view.seen.containers.iter().find(serving)?.address?)
            }
            _ => return None,
        };
        let user = mosquitto::AGENT_USER.to_owned();
        let password = mosquitto::password(&self.secrets, &broker, &user);
        Some(Login { address: SocketAddr::new(address, mosquitto::PORT), user, password })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_count_once_it_had_worked_and_silence_once_it_lasts() {
        use Word::{Fails, Falters, Late, Passes, Starting};
        for (word, passed, in_a_row, late, then) in [
            (Starting, false, 9, false, Starting),
            (Starting, false, 9, true, Late),
            (Late, false, 99, true, Late),
            (Starting, true, 0, false, Passes),
            (Late, true, 0, true, Passes),
            (Passes, false, 1, true, Falters),
            (Falters, false, 2, true, Falters),
            (Falters, false, 3, true, Fails),
            (Fails, false, 4, true, Fails),
            (Fails, true, 0, true, Passes),
            (Falters, true, 0, false, Passes),
        ] {
            assert_eq!(after(word, passed, in_a_row, 3, late), then, "{word:?} {passed} {in_a_row} {late}");
        }
        assert_eq!(after(Passes, false, 1, 1, false), Fails);
    }
}
