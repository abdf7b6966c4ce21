//! A disk that is full to the last byte: the agent goes on, clears up, comes back after a kill, and takes its reserve again.
use super::artifacts::Strange;
use crate::words::{idler, instance};
use redforge_shared::wire::pb;
use redforge_tests::{
    agent::TestAgent,
    ctl::Ctl,
    engine::image,
    hub::TestHub,
    place::{Process, Tmpfs, folder, is_root, run, text},
    wait::{eventually, when},
};
use std::{fs, process::Command, time::Duration};

fn flows_saying(word: &str) -> Vec<u8> {
    serde_json::json!([{"id": "t", "type": "tab", "label": word}]).to_string().into_bytes()
}

#[tokio::test]
async fn engine_an_agent_on_a_full_disk_goes_on_reconciling_clears_up_and_takes_its_reserve_again() {
    assert!(is_root(), "this story mounts a tmpfs");
    let hub = TestHub::start().await;
    let place = folder();
    let disk = Tmpfs::mount(&place.path().join("edge"), "64m");
    let mut agent = TestAgent::prepare("press-1").with_state(disk.path());
    agent.enroll_at(&hub).await;
    agent.up().await;
    let mut operator = hub.operator().await;
    // The flow set of before is what could be fetched again.
    let runtime = instance("press-1", "flows", "node-red", &image("node-red"), "  nodeRed:\n    flowSet: two\n");
    let pushed = operator.push_flows("two", &flows_saying("one")).await.expect("a plain export");
    operator.apply(&runtime).await;
    operator.running("press-1", "flows").await;
    operator.push_flows("two", &flows_saying("two")).await.expect("a plain export");
    let blob =
        disk.path().join("blobs/sha256").join(pushed.flow_set.expect("the newest").digest.replace("sha256:", ""));
    let listed = |h: &pb::Host| h.clean_up.clone().unwrap_or_default();
    operator.host_when("press-1", "the old flow set is listed before it goes", |h| listed(h).count == 1).await;
    assert!(blob.exists(), "it is too young to go");
    let reserve = disk.path().join("outbox.reserve");
    let reserved = fs::metadata(&reserve).expect("it keeps a reserve").len();
    assert!(reserved > 1 << 20, "{reserved}");

    let filler = disk.fill();
    let host = operator
        .host_when("press-1", "the hub hears of the full disk, and that what was too young has gone", |h| {
            let said = listed(h);
            h.reason() == pb::StatusReason::DiskFull && said.short && said.removed_blobs == 1
        })
        .await;
    assert!(listed(&host).unneeded.is_empty() && !blob.exists() && !reserve.exists());
    let said = text(&agent.status(&[]));
    assert!(said.contains("the disk is full") && said.contains("before their time"), "{said}");
    let doctor = agent.edge(&["doctor"]);
    assert!(text(&doctor).contains("the reserve is given back"), "{}", text(&doctor));
    // It goes on: a change arrives, is kept, made true and reported.
    operator.apply(&idler("press-1", "late")).await;
    operator.running("press-1", "late").await;
    // And it comes back from a kill, with nothing but what the reserve left.
    agent.kill9();
    agent.up().await;
    operator.apply(&idler("press-1", "later")).await;
    operator.running("press-1", "later").await;
    assert!(agent.process.as_mut().is_some_and(Process::is_running));

    fs::remove_file(filler).expect("own file");
    let well = |h: &pb::Host| h.reason() != pb::StatusReason::DiskFull && !listed(h).short;
    operator.host_when("press-1", "the host is well again", well).await;
    eventually("the reserve is taken again", async || {
        let bytes = fs::metadata(&reserve).map_or(0, |m| m.len());
        when(bytes == reserved, bytes)
    })
    .await;
}

#[tokio::test]
async fn engine_an_image_that_does_not_fit_is_refused_with_the_numbers_and_comes_when_there_is_room() {
    assert!(is_root(), "this story mounts a tmpfs");
    let hub = TestHub::start().await;
    let place = folder();
    let disk = Tmpfs::mount(&place.path().join("edge"), "24m");
    let mut agent = TestAgent::prepare("press-1").with_state(disk.path());
    // The state folder is what is small here, not the machine's disk.
    agent.env.push(("REDFORGE_EDGE__RUNTIME__DISK_HEADROOM_BYTES".into(), "1048576".into()));
    agent.enroll_at(&hub).await;
    agent.up().await;
    let (ctl, mut operator) = (Ctl::new(&hub), hub.operator().await);
    let strange = Strange::make("mosquitto", ctl.dir());
    let size = fs::metadata(&strange.tar).expect("just saved").len();
    assert!(size > 24 << 20, "{size}");
    ctl.run(&["artifact", "push", &strange.tar.display().to_string()]).good();
    operator.apply(&instance("press-1", "broker", "mosquitto", &strange.reference, "")).await;
    let refused = |s: &pb::InstanceStatus| s.reason() == pb::StatusReason::PreflightRefused;
    let status = operator.instance_when("press-1", "broker", "it is refused before any byte", refused).await;
    let found = status.preflight.expect("it says what it found").findings;
    let finding = found.iter().find(|f| f.verdict() == pb::PreflightVerdict::Refused).expect("one refuses");
    assert_eq!((finding.check(), finding.needed), (pb::PreflightCheck::Disk, Some(size)));
    assert_eq!(finding.names, ["state"]);
    let available = finding.available.expect("it was measured");
    assert!(available < 24 << 20, "{available}");
    let blobs = fs::read_dir(disk.path().join("blobs/sha256")).map_or(0, Iterator::count);
    assert_eq!(blobs, 0, "something was fetched");
    let larger = ["-o", "remount,size=96m", &disk.path().display().to_string()].map(str::to_owned);
    assert!(run(Command::new("mount").args(larger), Duration::from_secs(30)).status.success());
    operator.running("press-1", "broker").await;
}
