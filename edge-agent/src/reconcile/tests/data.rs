//! Data goes only when nobody needs it, and only after its time: whatever is asked for, held, taken back and restarted in turn.
use super::*;
use redforge_shared::clock::Clock as _;

const KEEP: Duration = Duration::from_secs(300);
/// Time between two looks.
const STEP: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
enum Turn {
    Want(Vec<InstanceSpec>),
    Hold(bool),
    /// A new version is on trial for longer than the story lasts; or for no time.
    Trial(bool),
    Restart,
    Live(usize),
}

prop_compose! {
    fn any_web()(who in 0..2_usize, image in 0..3_usize, volumes in any::<[bool; 2]>(), suspend in 0..8_u8) -> InstanceSpec {
        let mut spec = plain(["web", "db"][who]);
        // The last of them ends at once, whenever it is started.
        spec.image = ["box", "box2", "bad"][image].into();
        spec.suspend = suspend == 0;
        let named = ["one", "two"].into_iter().zip(volumes).filter(|(_, has)| *has);
        spec.volumes = named.map(|(n, _)| Volume { name: name(n), path: format!("/{n}") }).collect();
        spec
    }
}

fn any_turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        4 => proptest::collection::vec(any_web(), 0..3).prop_map(Turn::Want),
        1 => any::<bool>().prop_map(Turn::Hold),
        2 => any::<bool>().prop_map(Turn::Trial),
        1 => Just(Turn::Restart),
        4 => (1..14_usize).prop_map(Turn::Live),
    ]
}

/// What is known from outside: it shares nothing with what decides.
struct Story {
    engine: Arc<FakeRuntime>,
    agent: Agent,
    clock: ManualClock,
    held: bool,
    on_trial: bool,
    /// For how long nobody has needed a volume.
    ages: BTreeMap<String, Duration>,
    /// The spec that last worked, and did so for its time.
    good: BTreeMap<Name, InstanceSpec>,
}

impl Story {
    async fn begin() -> Self {
        let engine = engine();
        engine.bring_image("bad");
        engine.crash_image("bad", true);
        let agent = Agent::on(&engine, host(1)).await;
        let clock = ManualClock::new(time::OffsetDateTime::UNIX_EPOCH);
        let (ages, good) = (BTreeMap::new(), BTreeMap::new());
        let mut story = Self { engine, agent, clock, held: false, on_trial: false, ages, good };
        story.settings();
        story
    }

    fn settings(&mut self) {
        self.agent.reconciler.deps.clock = Arc::new(self.clock.clone());
        self.agent.reconciler.deps.deadlines.healthy = Duration::from_secs(if self.on_trial { 3_600 } else { 0 });
        let min_age = Duration::from_secs(3_600);
        self.agent.reconciler.deps.clean_up = CleanUp { enabled: true, min_age, keep_data: Some(KEEP) };
    }

    fn data(&self) -> BTreeSet<String> {
        let is_data = |(_, p): &(String, crate::runtime::VolumePurpose)| *p == crate::runtime::VolumePurpose::Data;
        self.engine.volumes().into_iter().filter(is_data).map(|(n, _)| n).collect()
    }

    /// Volumes that what was asked for, what worked last, or a container needs.
    fn needed(&self) -> BTreeSet<String> {
        let names = Names::new(self.agent.id);
        let state = self.agent.ledger.desired().expect("accepted").state.clone();
        let specs = state.instances.iter().chain(self.good.values());
        let named = specs.flat_map(|s| s.volumes.iter().map(|v| names.volume(&s.name, &v.name)).collect::<Vec<_>>());
        let mounted = self.engine.containers().into_values().flat_map(|c| c.2.mounts).map(|m| m.volume);
        named.chain(mounted).collect()
    }

    async fn pass(&mut self) -> Result<(), TestCaseError> {
        let before = self.data();
        self.agent.passes(1).await;
        let wanted = self.agent.ledger.desired().expect("accepted").state.instances.clone();
        self.good.retain(|n, _| wanted.iter().any(|w| w.name == *n));
        for spec in wanted {
            let s = self.agent.status(spec.name.as_str());
            let trusted = !self.on_trial || !self.good.contains_key(&spec.name);
            if trusted && (s.phase, s.health, s.sync) == (Phase::Running, Health::Healthy, Sync::UpToDate) {
                self.good.insert(spec.name.clone(), spec);
            }
        }
        let (after, needed) = (self.data(), self.needed());
        for volume in &before {
            if needed.contains(volume) {
                self.ages.remove(volume);
            } else {
                self.ages.entry(volume.clone()).and_modify(|age| *age += STEP).or_default();
            }
        }
        for gone in before.difference(&after) {
            prop_assert!(!self.held, "{gone} went while all is held");
            prop_assert!(!needed.contains(gone), "{gone} went and is needed");
            let age = self.ages.remove(gone);
            prop_assert!(age >= Some(KEEP), "{gone} went after {age:?}");
        }
        Ok(())
    }

    async fn turn(&mut self, turn: Turn) -> Result<(), TestCaseError> {
        // What is asked comes right before the look: it is no older for the time since the last one.
        self.clock.advance(STEP);
        match turn {
            Turn::Want(instances) => self.agent.want(instances).await,
            Turn::Restart => {
                self.agent.restart(&self.engine);
                self.settings();
            }
            Turn::Trial(on) => {
                self.on_trial = on;
                self.settings();
            }
            Turn::Hold(held) => {
                let (by, reason, since) = ("eva".into(), "open".into(), self.clock.now());
                let hold = Hold { by, reason, since, until: since + time::Duration::days(1), whole_host: true };
                if held {
                    self.agent.ledger.hold(&Scope::Host, &hold).await.expect("commits");
                } else {
                    self.agent.ledger.release(&Scope::Host).await.expect("commits");
                }
                self.held = held;
            }
            Turn::Live(looks) => {
                for _ in 1..looks {
                    self.pass().await?;
                    self.clock.advance(STEP);
                }
            }
        }
        self.pass().await
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn data_that_somebody_needs_or_that_is_young_is_never_removed_and_all_other_is(
        turns in proptest::collection::vec(any_turn(), 1..12),
    ) {
        let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        rt.block_on(async {
            let mut story = Story::begin().await;
            story.turn(Turn::Want(vec![])).await?;
            for turn in turns {
                story.turn(turn).await?;
            }
            story.turn(Turn::Hold(false)).await?;
            story.turn(Turn::Want(vec![])).await?;
            story.turn(Turn::Live(12)).await?;
            // Long enough after the last one let go of it.
            story.turn(Turn::Live(1 + (KEEP.as_secs() / STEP.as_secs()) as usize)).await?;
            prop_assert_eq!(story.data(), BTreeSet::new());
            Ok(())
        })?;
    }
}
