//! Whatever is asked for in turn, whatever breaks and whoever puts a hand in: what failed is not tried again unchanged, and
//! where something worked, something that worked serves in the end.
use super::*;
use redforge_shared::clock::Clock;

const LONG: Duration = Duration::from_secs(3_600);
/// Two that work, one that ends at once, one that the engine refuses.
const ALL: [(&str, &[&str]); 4] = [("box", &[]), ("box2", &[]), ("bad", &[]), ("refused", &[])];

/// What happens to one instance.
#[derive(Clone, Debug)]
enum Turn {
    /// Another version is asked for; the engine fails now and then meanwhile; it breaks once it has come up.
    Want { image: usize, replicas: u32, nonce: u8, fail_every: Option<u64>, breaks: bool },
    /// Somebody at the site restarts it.
    Restart,
    /// Somebody at the site holds it for as long as the next turn takes.
    Hold,
    /// The agent is started anew.
    Process,
    /// The same is asked for again, in another generation.
    Again,
}

fn turn() -> impl Strategy<Value = Turn> {
    let want = (0..ALL.len(), 1..4_u32, 0..2_u8, proptest::option::of(3..9_u64), any::<bool>());
    let want = want.prop_map(|(image, replicas, nonce, fail_every, breaks)| Turn::Want {
        image,
        replicas,
        nonce,
        fail_every,
        breaks,
    });
    prop_oneof![4 => want, 1 => Just(Turn::Restart), 1 => Just(Turn::Hold), 1 => Just(Turn::Process), 1 => Just(Turn::Again)]
}

/// What one look at the host shows: which spec is asked for (its image first), whether that has failed, and of which images
/// there are containers.
#[derive(Clone, Debug)]
struct Look {
    asked: String,
    failed: bool,
    images: BTreeSet<String>,
}

/// A spec that failed and was gone, and that came back while it was still the one that is asked for.
fn retried(looks: &[Look]) -> Option<&Look> {
    let (mut asked, mut gone) = ("", false);
    looks.iter().find(|look| {
        if look.asked != asked {
            (asked, gone) = (&look.asked, false);
        }
        let image = format!("sha256:{}", asked.split(' ').next().unwrap_or_default());
        let there = look.images.contains(&image);
        let again = gone && there;
        gone |= look.failed && !there;
        again
    })
}

/// An agent, what was asked of it, and what was seen.
struct Story {
    engine: Arc<FakeRuntime>,
    agent: Agent,
    clock: ManualClock,
    data: bool,
    asked: InstanceSpec,
    looks: Vec<Look>,
    /// Images that were seen to work as they were asked for.
    worked: BTreeSet<String>,
    /// Takes away what the agent remembers of a failure once it went back.
    forgets: bool,
    restarts: u32,
}

impl Story {
    async fn new(data: bool) -> Self {
        let engine = Arc::new(FakeRuntime::with_images(ALL));
        engine.crash_image("bad", true);
        engine.refuse_image("refused");
        let agent = Agent::on(&engine, host(1)).await;
        let clock = ManualClock::new(time::OffsetDateTime::UNIX_EPOCH);
        let asked = versioned("box", data);
        let (looks, worked) = (Vec::new(), BTreeSet::new());
        let mut story = Self { engine, agent, clock, data, asked, looks, worked, forgets: false, restarts: 0 };
        story.use_clock();
        story
    }

    fn use_clock(&mut self) {
        self.agent.reconciler.deps.clock = Arc::new(self.clock.clone());
    }

    async fn passes(&mut self, n: usize) {
        for _ in 0..n {
            // A new process has said nothing yet.
            let said = self.agent.reconciler.status.borrow().instances.first().map(|a| a.sync);
            let went_back = said == Some(Sync::RolledBack);
            if self.forgets
                && went_back
                && let Some(memory) = &mut self.agent.reconciler.memory
            {
                memory.set_failed(&self.agent.ledger, &name("a"), None).await.expect("commits");
            }
            self.agent.passes(1).await;
            let failed = matches!(self.agent.status("a").sync, Sync::RolledBack | Sync::Failed);
            let images = self.engine.containers().into_values().map(|(.., spec)| spec.image_id).collect();
            let InstanceSpec { image, replicas, restart_nonce, .. } = &self.asked;
            self.looks.push(Look { asked: format!("{image} {replicas} {restart_nonce}"), failed, images });
        }
    }

    async fn take(&mut self, turn: Turn) {
        // Rests and holds of earlier turns are over.
        self.clock.advance(Duration::from_secs(700));
        self.agent.reconciler.deps.deadlines.healthy = LONG;
        match turn {
            Turn::Want { image, replicas, nonce, fail_every, breaks } => {
                self.asked = versioned(ALL[image].0, self.data);
                self.asked.replicas = if self.data { 1 } else { replicas };
                self.asked.restart_nonce = if nonce == 0 { String::new() } else { nonce.to_string() };
                self.agent.want(vec![self.asked.clone()]).await;
                self.engine.fail_every(fail_every);
                self.passes(6).await;
                self.engine.fail_every(None);
                if breaks && !self.worked.contains(&self.asked.image) {
                    self.passes(12).await;
                    self.break_it().await;
                }
            }
            Turn::Restart => {
                self.restarts += 1;
                let nonce = self.restarts.to_string();
                self.agent.ledger.set_nonce(&name("a"), &nonce).await.expect("commits");
            }
            Turn::Hold => {
                let (since, by) = (self.clock.now(), "anna".to_owned());
                let until = since + time::Duration::minutes(10);
                let hold = Hold { by, reason: "belt is open".into(), since, until, whole_host: false };
                self.agent.ledger.hold(&Scope::Instance(name("a")), &hold).await.expect("commits");
                let before = self.engine.containers();
                self.passes(3).await;
                assert_eq!(self.engine.containers(), before, "what is held was touched");
                self.clock.advance(Duration::from_secs(700));
            }
            Turn::Process => {
                self.agent.restart(&self.engine);
                self.use_clock();
                self.agent.reconciler.deps.deadlines.healthy = LONG;
            }
            Turn::Again => self.agent.want(vec![self.asked.clone(), plain("z")]).await,
        }
        self.passes(10).await;
        // Whatever is on trial has had its time.
        self.agent.reconciler.deps.deadlines.healthy = Duration::ZERO;
        self.passes(30).await;
    }

    /// What was asked for, and runs by now, ends three times.
    async fn break_it(&mut self) {
        let image = format!("sha256:{}", self.asked.image);
        let own = self.engine.containers().into_iter().filter(|(_, c)| c.2.image_id == image);
        let own: Vec<_> = own.filter(|(_, c)| c.1 == ContainerState::Running).map(|(name, _)| name).take(1).collect();
        for container in own.iter().cycle().take(own.len() * 3) {
            if self.engine.containers().contains_key(container) {
                self.engine.crash_again(container);
            }
            self.passes(1).await;
        }
    }

    /// What holds when a turn has come to rest.
    async fn check(&mut self) -> Result<(), TestCaseError> {
        let status = self.agent.status("a");
        let prefix = format!("{}-a-", self.agent.reconciler.names.network());
        let running = self
            .engine
            .containers()
            .into_iter()
            .filter(|(name, c)| name.starts_with(&prefix) && c.1 == ContainerState::Running);
        let running: BTreeSet<String> = running.map(|(_, c)| c.2.image_id).collect();
        if (status.phase, status.health, status.sync) == (Phase::Running, Health::Healthy, Sync::UpToDate) {
            self.worked.insert(self.asked.image.clone());
        }
        let worked: BTreeSet<_> = self.worked.iter().map(|image| format!("sha256:{image}")).collect();
        if !worked.is_empty() {
            prop_assert!(!running.is_empty(), "nothing serves, and {worked:?} worked: {status:?}");
            prop_assert!(running.is_subset(&worked), "{running:?} runs, and {worked:?} worked: {status:?}");
        }
        prop_assert!(retried(&self.looks).is_none(), "tried again unchanged: {:?}", retried(&self.looks));
        self.engine.take_journal();
        self.passes(2).await;
        prop_assert_eq!(self.engine.take_journal(), Vec::<String>::new(), "it does not come to rest: {:?}", status);
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn what_failed_is_left_and_what_worked_serves(
        data in any::<bool>(),
        turns in proptest::collection::vec(turn(), 1..6),
    ) {
        let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        rt.block_on(async {
            let mut story = Story::new(data).await;
            story.agent.want(vec![story.asked.clone()]).await;
            story.passes(5).await;
            for turn in turns {
                story.take(turn).await;
                story.check().await?;
            }
            Ok::<(), TestCaseError>(())
        })?;
    }
}

/// The negative control: an agent that forgets what failed tries it again, and the property sees it.
#[tokio::test]
async fn an_agent_that_forgets_what_failed_is_found_out() {
    let bad = Turn::Want { image: 2, replicas: 1, nonce: 0, fail_every: None, breaks: false };
    for forgets in [false, true] {
        let mut story = Story::new(true).await;
        story.agent.want(vec![story.asked.clone()]).await;
        story.passes(5).await;
        story.forgets = forgets;
        story.take(bad.clone()).await;
        assert_eq!(retried(&story.looks).is_some(), forgets, "{:?}", story.looks);
    }
}
