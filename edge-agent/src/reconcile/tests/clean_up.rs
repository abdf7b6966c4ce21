//! What nothing needs goes after its time, what others brought never.
use super::*;
use redforge_shared::{
    clock::Clock as _,
    desired::{Blob, ImageArtifact},
    report::preflight::Verdict,
};

const REMOVED: &str = "remove image sha256:large:1";

/// An agent whose host pulled `large:1` for the instance `a`, beside an instance whose image was there before.
async fn with_a_pulled_image(rule: CleanUp) -> (Arc<FakeRuntime>, Agent, ManualClock) {
    let engine = engine();
    let mut agent = Agent::on(&engine, host(1)).await;
    let clock = ManualClock::new(time::OffsetDateTime::UNIX_EPOCH);
    agent.reconciler.deps.clock = Arc::new(clock.clone());
    agent.reconciler.deps.clean_up = rule;
    agent.want(vec![with_large(), plain("b")]).await;
    engine.send_image("large:1", 1, 2);
    agent.passes(2).await;
    engine.send_image("large:1", 2, 2);
    agent.passes(8).await;
    assert_eq!((agent.status("a").phase, agent.status("b").phase), (Phase::Running, Phase::Running));
    (engine, agent, clock)
}

fn with_large() -> InstanceSpec {
    spec("a", "large:1", Workload::Container(Container::default()))
}

fn said(agent: &Agent) -> redforge_shared::report::clean_up::CleanUp {
    agent.reconciler.status.borrow().clean_up.clone()
}

fn unneeded(agent: &Agent) -> Vec<String> {
    said(agent).unneeded.iter().map(|u| u.name.clone()).collect()
}

const A_MINUTE: CleanUp =
    CleanUp { enabled: true, min_age: Duration::from_secs(60), keep_data: Some(Duration::from_secs(600)) };

#[tokio::test]
async fn only_an_image_that_the_agent_brought_goes_and_only_when_nothing_needs_it_for_long_enough() {
    let (engine, mut agent, clock) = with_a_pulled_image(A_MINUTE).await;
    clock.advance(Duration::from_secs(86_400));
    agent.passes(2).await;
    assert!(unneeded(&agent).is_empty(), "it is needed: {:?}", unneeded(&agent));
    agent.want(vec![plain("b")]).await;
    agent.passes(8).await;
    assert_eq!(unneeded(&agent), ["large:1"], "it is listed before it goes");
    clock.advance(Duration::from_secs(59));
    agent.passes(2).await;
    // Needed again in between: its time begins anew.
    agent.want(vec![with_large(), plain("b")]).await;
    agent.passes(8).await;
    assert!(unneeded(&agent).is_empty());
    agent.want(vec![plain("b")]).await;
    agent.passes(8).await;
    clock.advance(Duration::from_secs(59));
    agent.passes(2).await;
    assert!(!engine.take_journal().contains(&REMOVED.to_owned()), "it is too young");
    clock.advance(Duration::from_secs(2));
    // Another process remembers it.
    let deps_clock = agent.reconciler.deps.clock.clone();
    agent.restart(&engine);
    (agent.reconciler.deps.clock, agent.reconciler.deps.clean_up) = (deps_clock, A_MINUTE);
    agent.passes(4).await;
    assert!(engine.take_journal().contains(&REMOVED.to_owned()), "it has its age");
    assert!(unneeded(&agent).is_empty());
    // What was on the engine before stays, however long nobody needs it.
    agent.want(vec![]).await;
    agent.passes(8).await;
    clock.advance(Duration::from_secs(86_400 * 365));
    agent.passes(4).await;
    let removed: Vec<_> = engine.take_journal().into_iter().filter(|j| j.starts_with("remove image")).collect();
    assert!(removed.is_empty(), "{removed:?}");
}

/// The same, with the rule taken out: then it stays and is only listed.
#[tokio::test]
async fn nothing_goes_where_clean_up_is_switched_off() {
    let (engine, mut agent, clock) = with_a_pulled_image(CleanUp { enabled: false, ..A_MINUTE }).await;
    agent.want(vec![plain("b")]).await;
    agent.passes(8).await;
    clock.advance(Duration::from_secs(86_400 * 365));
    agent.passes(4).await;
    assert!(!engine.take_journal().contains(&REMOVED.to_owned()));
    let listed = said(&agent).unneeded;
    assert_eq!((listed.len(), listed[0].removed_at), (1, None));
}

fn blobs_of(agent: &mut Agent) -> (tempfile::TempDir, ManualClock) {
    let dir = tempfile::tempdir().expect("a folder");
    let clock = ManualClock::new(time::OffsetDateTime::UNIX_EPOCH);
    agent.reconciler.deps.clock = Arc::new(clock.clone());
    agent.reconciler.deps.blobs = dir.path().to_owned();
    agent.reconciler.shelf.folder = dir.path().join("sha256");
    std::fs::create_dir_all(dir.path().join("sha256")).expect("own folder");
    (dir, clock)
}

fn files_in(dir: &tempfile::TempDir) -> BTreeSet<String> {
    let entries = std::fs::read_dir(dir.path().join("sha256")).expect("own folder");
    entries.filter_map(|e| Some(e.ok()?.file_name().to_string_lossy().into_owned())).collect()
}

/// Blobs that came for what is no longer named do not stay for ever, whole or in part; those that are named do.
#[tokio::test]
async fn blobs_that_nothing_names_are_no_longer_fetched_and_go_when_they_are_old() {
    let engine = engine();
    let mut agent = Agent::on(&engine, host(1)).await;
    let (dir, clock) = blobs_of(&mut agent);
    let (named, other, coming) = (Digest::of(b"named"), Digest::of(b"other"), Digest::of(b"coming"));
    let part = |d: Digest| format!("{}.part", d.hex());
    for file in [part(named), other.hex(), part(other), part(coming), "notes".into()] {
        std::fs::write(dir.path().join("sha256").join(file), b"x").expect("own folder");
    }
    agent.ledger.have(other).await.expect("noted");
    agent.ledger.want(coming).await.expect("noted");
    let tar = Blob { digest: named, bytes: 9 };
    let artifact = ImageArtifact { tar, image_id: Digest::of(b"id").to_string() };
    let wish = InstanceSpec { image_artifact: Some(artifact), ..with_large() };
    agent.want(vec![wish.clone()]).await;
    let progress = within("it comes", &mut agent, |a| a.status("a").progress).await;
    assert_eq!((progress.what.as_str(), progress.done_bytes, progress.total_bytes), ("large:1", 1, 9));
    assert_eq!(agent.ledger.wanted().await.expect("reads"), [named], "what is named is asked for, and nothing else");
    let all = BTreeSet::from([part(named), other.hex(), part(other), part(coming), "notes".to_owned()]);
    assert_eq!(files_in(&dir), all, "they are too young");
    let mut listed = unneeded(&agent);
    listed.sort();
    let mut expected = [other.hex(), coming.hex()];
    expected.sort();
    assert_eq!(listed, expected, "they are listed before they go");
    // One that is named again in between is no longer on its way out.
    clock.advance(Duration::from_secs(59));
    let tar = Blob { digest: other, bytes: 1 };
    let second = ImageArtifact { tar, image_id: Digest::of(b"other id").to_string() };
    let more = spec("b", "other:1", Workload::Container(Container::default()));
    agent.want(vec![wish.clone(), InstanceSpec { image_artifact: Some(second), suspend: true, ..more }]).await;
    agent.passes(1).await;
    agent.want(vec![wish]).await;
    agent.passes(1).await;
    clock.advance(Duration::from_secs(2));
    agent.passes(2).await;
    assert_eq!(files_in(&dir), BTreeSet::from([part(named), other.hex(), part(other), "notes".to_owned()]));
    clock.advance(Duration::from_secs(60));
    agent.passes(2).await;
    assert_eq!(files_in(&dir), BTreeSet::from([part(named), "notes".to_owned()]));
    assert_eq!(agent.ledger.known_blobs().await.expect("reads"), [named]);
    assert!(unneeded(&agent).is_empty());
}

/// Passes until this is there.
async fn within<T>(what: &str, agent: &mut Agent, look: impl Fn(&Agent) -> Option<T>) -> T {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        agent.passes(1).await;
        if let Some(found) = look(agent) {
            return found;
        }
        assert!(Instant::now() < until, "{what}");
        // What comes is read by a thread of its own.
        tokio::task::spawn_blocking(|| ()).await.expect("it ends");
    }
}

/// An agent that was killed between an image's arrival and its own row of it still knows that it brought it.
#[tokio::test]
async fn an_image_that_came_while_the_agent_was_down_is_the_agents_when_it_had_begun_to_fetch_it() {
    let engine = engine();
    let mut agent = Agent::on(&engine, host(1)).await;
    agent.want(vec![with_large(), plain("b")]).await;
    engine.send_image("large:1", 1, 2);
    agent.passes(2).await;
    // A name that nobody began to fetch is not ours, and one that was here before is not either.
    engine.bring_image("by-hand:1");
    engine.send_image("large:1", 2, 2);
    agent.restart(&engine);
    let clock = ManualClock::new(time::OffsetDateTime::UNIX_EPOCH);
    agent.reconciler.deps.clock = Arc::new(clock.clone());
    let by_hand = spec("c", "by-hand:1", Workload::Container(Container::default()));
    agent.want(vec![with_large(), plain("b"), by_hand]).await;
    agent.passes(6).await;
    agent.want(vec![]).await;
    agent.passes(6).await;
    assert_eq!(unneeded(&agent), ["large:1"]);
    clock.advance(Duration::from_secs(61));
    agent.passes(3).await;
    let removed: Vec<_> = engine.take_journal().into_iter().filter(|j| j.starts_with("remove image")).collect();
    assert_eq!(removed, [REMOVED]);
    assert_eq!(said(&agent).removed.images, 1, "what went is counted");
}

/// Where the disk is full, what can be fetched again goes before its time; what is needed and data stay.
#[tokio::test]
async fn where_room_is_short_what_can_be_fetched_again_goes_before_its_time_and_data_does_not() {
    let (engine, mut agent, clock) = with_a_pulled_image(A_MINUTE).await;
    let (full, disk_full) = watch::channel(false);
    agent.reconciler.deps.disk_full = Some(disk_full);
    let mut with_data = plain("b");
    with_data.volumes.push(Volume { name: name("keep"), path: "/keep".into() });
    agent.want(vec![with_large(), with_data]).await;
    agent.passes(8).await;
    agent.want(vec![]).await;
    agent.passes(8).await;
    let volume = Names::new(agent.id).volume(&name("b"), &name("keep"));
    let mut listed = unneeded(&agent);
    listed.sort();
    assert_eq!(listed, ["large:1", volume.as_str()]);
    engine.take_journal();
    clock.advance(Duration::from_secs(1));
    agent.passes(2).await;
    assert!(engine.take_journal().is_empty() && !said(&agent).short, "there is room");
    full.send_replace(true);
    agent.passes(2).await;
    assert_eq!(engine.take_journal(), [REMOVED]);
    assert!(said(&agent).short);
    assert_eq!(unneeded(&agent), [volume]);
    full.send_replace(false);
    agent.passes(1).await;
    assert!(!said(&agent).short);
}

/// What does not fit now and would after a clean-up fits after it, and the clean-up comes first.
#[tokio::test]
async fn an_image_that_nothing_needs_makes_room_for_one_that_is_wanted() {
    let (engine, mut agent, _clock) = with_a_pulled_image(A_MINUTE).await;
    engine.set_machine(crate::runtime::EngineSeen { root_dir: "/".into(), ..Default::default() });
    engine.send_image("next:1", 1, 2);
    // So much stays free that only what the first image takes makes room; the disk itself is the machine's.
    agent.reconciler.deps.limits.disk_headroom_bytes = 1 << 61;
    let next = spec("c", "next:1", Workload::Container(Container::default()));
    agent.want(vec![next.clone(), plain("b")]).await;
    agent.passes(4).await;
    let verdict = |agent: &Agent| agent.status("c").preflight.map(|p| p.verdict);
    assert_eq!(verdict(&agent), Some(Verdict::Refused), "nothing says how large the image is that could go");
    assert!(!engine.take_journal().contains(&REMOVED.to_owned()));
    let row = agent.reconciler.memory.as_mut().and_then(|m| m.brought_images.get_mut("sha256:large:1"));
    row.expect("it was brought").bytes = 1 << 62;
    agent.passes(1).await;
    // The pass that finds out what could go tells the next one, and that one removes it.
    let mut verdicts = Vec::new();
    for _ in 0..4 {
        agent.passes(1).await;
        verdicts.extend(verdict(&agent));
    }
    assert!(verdicts.contains(&Verdict::FitsAfterCleanUp), "{verdicts:?}");
    assert!(engine.take_journal().contains(&REMOVED.to_owned()), "it went before its time");
    // That it was not enough is found out then, and said with the numbers.
    assert_eq!(verdict(&agent), Some(Verdict::Refused));
    agent.reconciler.deps.limits.disk_headroom_bytes = 0;
    agent.passes(2).await;
    engine.send_image("next:1", 2, 2);
    agent.passes(6).await;
    assert_eq!((agent.status("c").phase, verdict(&agent)), (Phase::Running, Some(Verdict::Fits)));
}

/// Passes for so many seconds, one every half minute.
async fn live(agent: &mut Agent, clock: &ManualClock, seconds: u64) {
    for _ in 0..seconds / 30 {
        clock.advance(Duration::from_secs(30));
        agent.passes(1).await;
    }
}

/// `web` with data, its volume's name in the engine, and how long data is kept.
async fn with_data(keep_data: Option<Duration>) -> (Arc<FakeRuntime>, Agent, ManualClock, String) {
    let engine = engine();
    let mut agent = Agent::on(&engine, host(1)).await;
    let clock = ManualClock::new(time::OffsetDateTime::UNIX_EPOCH);
    agent.reconciler.deps.clock = Arc::new(clock.clone());
    agent.reconciler.deps.clean_up = CleanUp { keep_data, ..A_MINUTE };
    agent.want(vec![web(true), plain("b")]).await;
    agent.passes(6).await;
    let volume = Names::new(agent.id).volume(&name("web"), &name("keep"));
    assert!(engine.volumes().contains_key(&volume));
    (engine, agent, clock, volume)
}

fn web(data: bool) -> InstanceSpec {
    let mut web = plain("web");
    if data {
        web.volumes.push(Volume { name: name("keep"), path: "/keep".into() });
    }
    web
}

#[tokio::test]
async fn the_data_of_a_deleted_instance_is_kept_for_a_while_and_comes_back_with_it() {
    let (engine, mut agent, clock, volume) = with_data(A_MINUTE.keep_data).await;
    agent.want(vec![plain("b")]).await;
    agent.passes(4).await;
    // A year in which nobody looked is no year.
    clock.advance(Duration::from_secs(365 * 86_400));
    live(&mut agent, &clock, 300).await;
    let goes_at = said(&agent).unneeded[0].removed_at.expect("it is told when it goes");
    assert_eq!(unneeded(&agent), [volume.as_str()]);
    // Back in time: with its data, and the time begins anew.
    agent.want(vec![web(true), plain("b")]).await;
    agent.passes(6).await;
    assert!(unneeded(&agent).is_empty() && engine.volumes().contains_key(&volume));
    agent.want(vec![plain("b")]).await;
    agent.passes(4).await;
    live(&mut agent, &clock, 570).await;
    assert!(engine.volumes().contains_key(&volume) && said(&agent).unneeded[0].removed_at > Some(goes_at));
    live(&mut agent, &clock, 90).await;
    assert!(!engine.volumes().contains_key(&volume));
    assert_eq!(said(&agent).removed.volumes, 1);
    assert!(unneeded(&agent).is_empty());
}

#[tokio::test]
async fn a_volume_that_a_spec_dropped_goes_only_when_the_new_spec_works_and_nobody_holds_the_instance() {
    let (engine, mut agent, clock, volume) = with_data(A_MINUTE.keep_data).await;
    // The new spec does not come up: what comes back needs the data.
    engine.bring_image("bad");
    engine.crash_image("bad", true);
    let mut bad = web(false);
    bad.image = "bad".into();
    agent.want(vec![bad, plain("b")]).await;
    live(&mut agent, &clock, 1_500).await;
    assert!(engine.volumes().contains_key(&volume), "what ran last needs it");
    assert!(unneeded(&agent).is_empty(), "{:?}", unneeded(&agent));
    agent.want(vec![web(false), plain("b")]).await;
    live(&mut agent, &clock, 300).await;
    assert_eq!((agent.status("web").sync, unneeded(&agent)), (Sync::UpToDate, vec![volume.clone()]));
    // Somebody at the site holds the instance: its time stands still.
    let until = clock.now() + time::Duration::hours(2);
    let hold = Hold { by: "eva".into(), reason: "open".into(), since: clock.now(), until, whole_host: false };
    agent.ledger.hold(&Scope::Instance(name("web")), &hold).await.expect("held");
    live(&mut agent, &clock, 3_600).await;
    assert!(engine.volumes().contains_key(&volume) && unneeded(&agent).is_empty());
    agent.ledger.release(&Scope::Instance(name("web"))).await.expect("released");
    live(&mut agent, &clock, 600).await;
    assert!(!engine.volumes().contains_key(&volume), "{:?}", said(&agent));
}

/// The same with the rule taken out: whoever wants data kept for ever says so.
#[tokio::test]
async fn data_stays_for_ever_where_the_settings_say_so_and_is_only_listed() {
    let (engine, mut agent, clock, volume) = with_data(None).await;
    agent.want(vec![plain("b")]).await;
    agent.passes(4).await;
    live(&mut agent, &clock, 3_600).await;
    assert!(engine.volumes().contains_key(&volume));
    let listed = said(&agent).unneeded;
    assert_eq!((listed[0].name.as_str(), listed[0].removed_at), (volume.as_str(), None));
}
