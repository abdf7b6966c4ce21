//! Cases with their numbers, and that no order of asking promises more than the host has.
use super::*;
use proptest::prelude::*;
use redforge_shared::desired::Protocol;

const GIB: u64 = 1 << 30;

fn name(s: &str) -> Name {
    s.parse().expect("a name")
}

fn port(host: u16, address: &str) -> Port {
    let address = address.parse().expect("an address");
    Port { container: 80, host, address, protocol: Protocol::Tcp }
}

fn room() -> Room {
    Room {
        disk_free_bytes: Some(4 * GIB),
        memory_total_bytes: Some(4 * GIB),
        architecture: "amd64".into(),
        ..Room::default()
    }
}

fn limits() -> Limits {
    Limits { disk_headroom_bytes: GIB, memory_reserve_bytes: GIB }
}

fn ask() -> Ask {
    Ask { image: "box".into(), creates: true, ..Ask::default() }
}

fn alone(ask: Ask, room: &Room) -> Preflight {
    judge(&[(name("a"), ask)], room, limits()).remove(&name("a")).expect("it changes")
}

#[test]
fn what_stays_as_it_is_is_not_asked() {
    assert!(judge(&[(name("a"), Ask::default())], &room(), limits()).is_empty());
}

#[test]
fn disk_is_free_bytes_less_the_headroom_and_what_others_fetch() {
    let fetching = |bytes: Option<u64>| Ask { fetch: bytes.map_or(Fetch::Unknown, Fetch::Bytes), ..ask() };
    let cases = [
        (Some(3 * GIB), 0, Verdict::Fits),
        (Some(3 * GIB + 1), 0, Verdict::Refused),
        (Some(3 * GIB + 1), 1, Verdict::FitsAfterCleanUp),
        (None, 0, Verdict::Fits),
    ];
    for (bytes, reclaimable_bytes, verdict) in cases {
        let p = alone(fetching(bytes), &Room { reclaimable_bytes, ..room() });
        assert_eq!(p.verdict, verdict, "{bytes:?} {reclaimable_bytes}");
        assert_eq!((p.findings[0].needed, p.findings[0].available), (bytes, Some(3 * GIB)));
    }
    let full = Room { disk_free_bytes: Some(GIB), ..room() };
    assert_eq!(alone(fetching(None), &full).verdict, Verdict::Refused, "of unknown size is at least something");
    assert_eq!(alone(ask(), &full).verdict, Verdict::Fits, "what is here needs no room");
    assert_eq!(alone(fetching(None), &Room { disk_free_bytes: None, ..room() }).verdict, Verdict::Fits);
    let other = Ask { image: "other".into(), ..fetching(Some(2 * GIB)) };
    let asks = [fetching(Some(2 * GIB)), fetching(Some(2 * GIB)), other];
    let asks: Vec<_> = ["a", "b", "c"].map(name).into_iter().zip(asks).collect();
    let verdicts: Vec<_> = judge(&asks, &room(), limits()).into_values().map(|p| p.verdict).collect();
    assert_eq!(verdicts, [Verdict::Fits, Verdict::Fits, Verdict::Refused], "one image is fetched once");
}

#[test]
fn what_comes_by_way_of_the_state_folder_needs_room_on_its_disk_too() {
    let fetching = |bytes: u64| Ask { fetch: Fetch::Bytes(bytes), by_way_of_state: bytes, ..ask() };
    let two = Room { state_free_bytes: Some(2 * GIB), ..room() };
    let p = alone(fetching(2 * GIB), &two);
    assert_eq!(p.verdict, Verdict::Refused);
    assert_eq!(p.refusal(), "disk of the state folder: 2.0 GiB needed, 1.0 GiB available");
    assert_eq!(alone(fetching(GIB), &two).verdict, Verdict::Fits);
    // On one disk both lie there at the same time.
    let one = Room { one_disk: true, ..room() };
    assert_eq!(alone(fetching(GIB), &one).verdict, Verdict::Fits);
    assert_eq!(alone(fetching(2 * GIB), &one).refusal(), "disk: 4.0 GiB needed, 3.0 GiB available");
    // What others fetch by the same way is there before it.
    let other = Ask { image: "other".into(), ..fetching(GIB) };
    let asks: Vec<_> = ["a", "b"].map(name).into_iter().zip([fetching(GIB), other]).collect();
    let said = judge(&asks, &two, limits());
    let verdicts: Vec<_> = said.values().map(|p| p.verdict).collect();
    assert_eq!(verdicts, [Verdict::Fits, Verdict::Refused]);
    let unknown = Room { state_free_bytes: None, ..room() };
    assert_eq!(alone(fetching(2 * GIB), &unknown).verdict, Verdict::Fits, "what cannot be looked at refuses nothing");
}

#[test]
fn a_port_of_another_instance_or_program_is_named() {
    let wants = |p: Port| Ask { ports: vec![p], ..ask() };
    let holder = Ask { ports: vec![port(80, "0.0.0.0")], ..Ask::default() };
    let asks = [(name("a"), wants(port(80, "127.0.0.1"))), (name("b"), holder)];
    let p = &judge(&asks, &room(), limits())[&name("a")];
    assert_eq!(p.refusal(), "port 80/tcp is held by b");
    let taken = Room { taken: vec![port(81, "127.0.0.1")], ..room() };
    assert_eq!(alone(wants(port(81, "127.0.0.1")), &taken).refusal(), "port 81/tcp is held by another program");
    assert_eq!(alone(wants(port(82, "127.0.0.1")), &taken).verdict, Verdict::Fits);
}

#[test]
fn architecture_subnet_and_secrets_refuse_by_name() {
    let made_for = |a: &str| Ask { architecture: Some(a.into()), ..ask() };
    assert_eq!(alone(made_for("arm64"), &room()).refusal(), "image for arm64, host is amd64");
    assert_eq!(alone(made_for("386"), &room()).verdict, Verdict::Fits);
    assert_eq!(alone(made_for(""), &room()).verdict, Verdict::Fits);
    let subnet = Room { subnet: Some(("10.0.0.0/24".into(), true)), ..room() };
    assert_eq!(alone(ask(), &subnet).refusal(), "subnet 10.0.0.0/24 overlaps a network of the host");
    let secret = Ask { secrets: vec!["db".into()], ..ask() };
    assert_eq!(alone(secret, &room()).refusal(), "secret db is not known on the host");
    assert_eq!(["x86_64", "aarch64", "armv7l", "riscv64"].map(as_images_name_it), ["amd64", "arm64", "arm", "riscv64"]);
}

#[test]
fn routes_are_read_and_compared() {
    let head = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n";
    let (net, mask) = (u32::from_ne_bytes([10, 231, 64, 0]), u32::from_ne_bytes([255, 255, 255, 0]));
    let table = format!(
        "{head}eth0\t00000000\t0101A8C0\t3\t0\t0\t0\t00000000\t0\t0\t0\nbr\t{net:08X}\t0\t1\t0\t0\t0\t{mask:08X}\t0\t0\t0\n"
    );
    let found = routes(&table);
    assert_eq!(found, [Block::parse("10.231.64.0/24").expect("a block")]);
    let overlap = |text: &str| found[0].overlaps(Block::parse(text).expect("a block"));
    assert!(overlap("10.231.0.0/16") && overlap("10.231.64.128/25") && !overlap("10.231.65.0/24"));
    assert!(!Block(0, 0).overlaps(found[0]), "the way to everywhere is no network");
}

prop_compose! {
    fn any_ask()(
        creates in any::<bool>(), wants in 0..6_u64, now in 0..3_u64, fetch in proptest::option::of(0..4_u64),
        ports in proptest::collection::btree_set(80..84_u16, 0..3), image in 0..3_u8,
    ) -> Ask {
        Ask {
            image: format!("i{image}"),
            creates,
            fetch: fetch.map_or(Fetch::Nothing, |n| Fetch::Bytes(n * GIB)),
            memory_bytes: wants * GIB,
            memory_now_bytes: if creates { now * GIB } else { wants.min(1) * GIB },
            ports: if creates { ports.iter().map(|p| port(*p, "0.0.0.0")).collect() } else { vec![] },
            ..Ask::default()
        }
    }
}

proptest! {
    /// Whatever is asked for: what is let through never takes more memory or disk than there is, unless it was so before,
    /// and no port is promised twice.
    #[test]
    fn never_more_than_the_hosts_capacity(asks in proptest::collection::vec(any_ask(), 1..6), total in 1..12_u64) {
        let room = Room { memory_total_bytes: Some(total * GIB), disk_free_bytes: Some(total * GIB), ..room() };
        let asks: Vec<_> = asks.into_iter().enumerate().map(|(n, a)| (name(&format!("i{n}")), a)).collect();
        let said = judge(&asks, &room, limits());
        let through = |n: &Name| said.get(n).is_some_and(|p| p.verdict == Verdict::Fits);
        let before: u64 = asks.iter().map(|(_, a)| a.memory_now_bytes).sum();
        let after: u64 = asks.iter().map(|(n, a)| {
            if through(n) && a.creates { a.memory_bytes } else { a.memory_now_bytes }
        }).sum();
        prop_assert!(after <= ((total - 1) * GIB).max(before), "{after} of {total}, before {before}");
        let fetched: BTreeMap<&str, u64> = asks.iter().filter(|(n, _)| through(n))
            .filter_map(|(_, a)| if let Fetch::Bytes(b) = a.fetch { Some((a.image.as_str(), b)) } else { None }).collect();
        prop_assert!(fetched.values().sum::<u64>() <= (total - 1) * GIB);
        let mut held = std::collections::BTreeSet::new();
        for (_, a) in asks.iter().filter(|(n, _)| through(n)) {
            prop_assert!(a.ports.iter().all(|p| held.insert(p.host)), "a port is promised twice");
        }
    }
}
