//! What the model believes, what it compares with, and how each act is done to a real outbox in a real folder.
use super::{
    Act, Draft,
    file::{Cut, File, Held, copy_files},
};
use crate::{
    db::outbox::{
        Appended, CursorUpdate, Limits, LostReason, Outbox, OutboxError, Outcome, Ranges, SealedBatch, Session,
        StreamName, Work,
        tests::{clock, record},
    },
    privacy::Released,
};
use bytes::Bytes;
use redforge_shared::{
    clock::{Clock as _, ManualClock},
    ids::Epoch,
    record::RecordClass,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// A record's name for ever.
pub(super) type Name = (StreamName, u64);

const HUB_RPO: Duration = Duration::from_hours(24);
const MAX_AGE: Duration = Duration::from_hours(60);
pub(super) const CURSOR: &str = "a container";

/// The hub's stream rows and landing tables.
#[derive(Clone, Debug, Default)]
struct Hub {
    committed: BTreeMap<Name, Bytes>,
    lost: BTreeSet<Name>,
}

pub(super) struct World {
    root: tempfile::TempDir,
    folders: u32,
    dir: PathBuf,
    limits: Limits,
    clock: ManualClock,
    outbox: Outbox,
    session: Option<Session>,
    held: Held,
    /// Streams born since the outbox was opened.
    current: BTreeMap<RecordClass, StreamName>,
    hub: Hub,
    /// Everything that ever bore a name: it must always be the same.
    names: BTreeMap<Name, Bytes>,
    appended_s: BTreeMap<Name, i64>,
    born: BTreeSet<StreamName>,
    /// What a collector was told is safe.
    promised: BTreeSet<Name>,
    /// What the hub need not have: the only copy went with a file or a backup.
    excused: BTreeSet<Name>,
    on_the_way: Vec<SealedBatch>,
    answers: Vec<(StreamName, u64, u64)>,
    snapshots: Vec<(PathBuf, Held)>,
    backups: Vec<(i64, Hub)>,
    /// Rows that gave way to new ones though acked shortly before: the size cap comes before the window.
    displaced: BTreeSet<Name>,
    /// Rows that a hub restored from beyond the window lacks, and that are here by chance.
    beyond: BTreeSet<Name>,
    drawn: u64,
}

impl World {
    pub(super) async fn begin(max_bytes: u64) -> Self {
        // Nothing here loses power for real, so the folder may be in memory.
        let shm = Path::new("/dev/shm");
        let root = if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() }.expect("a folder");
        let dir = root.path().join("0");
        fs::create_dir(&dir).expect("own folder");
        let limits = Limits { max_bytes, hub_rpo: HUB_RPO, max_age: MAX_AGE, reserve_bytes: 4096, ..Limits::default() };
        let clock = clock();
        let outbox = Outbox::open(&dir.join("outbox.db"), limits, Arc::new(clock.clone())).await.expect("opens");
        Self {
            root,
            folders: 0,
            dir,
            limits,
            clock,
            outbox,
            session: None,
            held: Held::default(),
            current: BTreeMap::new(),
            hub: Hub::default(),
            names: BTreeMap::new(),
            appended_s: BTreeMap::new(),
            born: BTreeSet::new(),
            promised: BTreeSet::new(),
            excused: BTreeSet::new(),
            on_the_way: Vec::new(),
            answers: Vec::new(),
            snapshots: Vec::new(),
            backups: Vec::new(),
            displaced: BTreeSet::new(),
            beyond: BTreeSet::new(),
            drawn: 0,
        }
    }

    pub(super) async fn act(&mut self, act: Act) {
        let appends = matches!(act, Act::Append(..) | Act::PowerCut(..));
        match act {
            Act::Append(drafts, cursor) => {
                let (records, cursor) = self.draw(&drafts, cursor);
                self.append(records, cursor, true).await;
            }
            Act::PowerCut(drafts, cursor, kept, rubbish) => self.power_cut(&drafts, cursor, kept, rubbish).await,
            Act::Connect => self.connect().await,
            Act::Send(most) => self.send(most).await,
            Act::HubTakes(n) => {
                if let Some(batch) = pick(&mut self.on_the_way, n) {
                    self.hub_takes(&batch);
                }
            }
            Act::NeverArrives(n) => drop(pick(&mut self.on_the_way, n)),
            Act::HubRefuses(n) => self.hub_refuses(n).await,
            Act::AckArrives(n, twice) => self.ack_arrives(n, twice).await,
            Act::AckOfNobody => {
                let nobody = StreamName { class: RecordClass::Log, epoch: Epoch([7; 16]) };
                self.outbox.ack(nobody, 1, 1_000).await.expect("commits");
            }
            Act::Crash => {
                let to = self.copy(None, false);
                self.reopen(to).await;
            }
            Act::CloseAndReopen => {
                self.outbox.close().await;
                let to = self.dir.clone();
                self.reopen(to).await;
            }
            Act::Snapshot => {
                let to = self.copy(None, false);
                self.snapshots.push((to, self.held.clone()));
            }
            Act::Restore(n) => self.restore(n).await,
            Act::HubBackup => self.backups.push((self.now_s(), self.hub.clone())),
            Act::HubRestore(n) => self.hub_restore(n),
            Act::Tidy(hours) => self.tidy(hours).await,
        }
        self.compare(appends).await;
    }

    fn now_s(&self) -> i64 {
        self.clock.now().unix_timestamp()
    }

    fn draw(&mut self, drafts: &[Draft], cursor: bool) -> (Vec<Released>, Option<u64>) {
        let mut released = |d: &Draft| {
            self.drawn += 1;
            let class = if d.class == 3 { RecordClass::Event } else { RecordClass::Log };
            let key = d.key.map(|k| format!("key {k}"));
            record(class, key.as_deref(), &format!("{} {}", self.drawn, "x".repeat(d.size.into())))
        };
        let records: Vec<_> = drafts.iter().map(&mut released).collect();
        (records, cursor.then_some(self.drawn))
    }

    async fn append(&mut self, records: Vec<Released>, cursor: Option<u64>, heard: bool) -> Vec<Name> {
        let before = File::read(&self.dir);
        let update = cursor.map(|c| CursorUpdate { key: CURSOR.into(), value: c.to_be_bytes().to_vec() });
        let done = match self.outbox.append(records.clone(), update).await {
            Ok(done) => done,
            Err(OutboxError::ClassFull(_)) => {
                // All or nothing: `compare` sees that the cursor did not move.
                let after = File::read(&self.dir);
                let gone = before.rows.keys().filter(|n| !after.rows.contains_key(*n) && !self.held.acked.contains(*n));
                assert_eq!(gone.count(), 0, "records were dropped for an append that was refused");
                return Vec::new();
            }
            Err(e) => panic!("append failed: {e}"),
        };
        let after = File::read(&self.dir);
        let mut given = Vec::new();
        // Rows that made room are gone with their keys, and an append makes room before it looks at keys.
        let kept = before.keys.into_iter().filter(|(_, name)| after.rows.contains_key(name));
        let mut keys: BTreeSet<_> = kept.map(|(key, _)| key).collect();
        for (record, done) in records.iter().zip(done) {
            let key = record.key_hash().map(|k| (record.class(), k.0.to_vec()));
            match done {
                Appended::New(seq) => {
                    let stream = self.current_stream(record.class(), &after);
                    let next = self.held.next.entry(stream).or_insert(1);
                    assert_eq!(seq, *next, "numbers are dense");
                    *next += 1;
                    if let Some(key) = key {
                        assert!(keys.insert(key), "a key that is here was stored again");
                    }
                    let name = (stream, seq);
                    let other = self.names.insert(name, record.sealed().clone());
                    assert!(other.is_none(), "{stream} {seq} was the name of another record");
                    self.appended_s.insert(name, self.now_s());
                    self.held.rows.insert(name, record.sealed().clone());
                    if heard {
                        self.promised.insert(name);
                    }
                    given.push(name);
                }
                Appended::Repeat => assert!(key.is_some_and(|k| keys.contains(&k)), "nothing was there to repeat"),
            }
        }
        if cursor.is_some() {
            self.held.cursor = cursor;
        }
        given
    }

    /// The stream that a class grows now; the first time after an open it must be a new one.
    fn current_stream(&mut self, class: RecordClass, file: &File) -> StreamName {
        *self.current.entry(class).or_insert_with(|| {
            let stream = file.newest[&class];
            assert!(self.born.insert(stream), "the epoch of {stream} was used before");
            stream
        })
    }

    async fn power_cut(&mut self, drafts: &[Draft], cursor: bool, kept: u16, rubbish: bool) {
        let log = self.dir.join("outbox.db-wal");
        let length = || fs::metadata(&log).map_or(0, |m| m.len());
        let (held, current, born) = (self.held.clone(), self.current.clone(), self.born.clone());
        let (records, cursor) = self.draw(drafts, cursor);
        let (before, file) = (length(), fs::read(self.dir.join("outbox.db")).expect("the outbox made it"));
        let given = self.append(records, cursor, false).await;
        let written = length().saturating_sub(before);
        let cut = Cut { file, log: before + written * u64::from(kept.min(1_000)) / 1_000 };
        let to = self.copy(Some(&cut), rubbish);
        let file = File::read(&to);
        let there = given.first().is_some_and(|n| file.rows.contains_key(n))
            || (given.is_empty() && file.cursor == self.held.cursor);
        if !there {
            // As if it had never been asked for; the names are free for nobody.
            (self.held, self.current, self.born) = (held, current, born);
            for name in &given {
                self.names.remove(name);
            }
        }
        self.reopen(to).await;
    }

    async fn connect(&mut self) {
        let named = self.outbox.open_streams();
        for s in &named {
            for (_, first, last) in &s.lost {
                self.hub.lost.extend((*first..=*last).map(|n| (s.name, n)));
            }
        }
        for s in &named {
            let committed: Ranges =
                self.hub.committed.keys().filter(|n| n.0 == s.name).map(|(_, n)| (*n, *n)).collect();
            self.outbox.reconcile_committed(s, committed).await.expect("commits");
            for name in (1..=s.max_seq).map(|n| (s.name, n)) {
                if self.hub.committed.contains_key(&name) {
                    self.held.acked(name, &mut self.displaced);
                } else if self.held.rows.contains_key(&name) {
                    self.held.acked.remove(&name);
                }
            }
        }
        self.outbox.note_heard().await.expect("commits");
        self.answers.clear();
        self.session = Some(self.outbox.session());
    }

    async fn send(&mut self, most: u8) {
        if self.session.is_none() {
            self.connect().await;
        }
        let session = self.session.as_mut().expect("just made");
        let Some(batch) = session.next_batch(most.into()).await.expect("reads") else { return };
        for (seq, bytes) in (batch.first_seq..).zip(&batch.records) {
            let name = (batch.stream, seq);
            assert!(!self.held.acked.contains(&name) && !self.held.lost.contains(&name), "{name:?} was done with");
            assert_eq!(self.names.get(&name), Some(bytes), "another record went under this name");
        }
        self.on_the_way.push(batch);
    }

    /// The hub's rule.
    fn hub_takes(&mut self, batch: &SealedBatch) {
        for (seq, bytes) in (batch.first_seq..).zip(&batch.records) {
            let there = self.hub.committed.entry((batch.stream, seq)).or_insert_with(|| bytes.clone());
            assert_eq!(there, bytes, "two records under one name");
        }
        self.answers.push((batch.stream, batch.first_seq, batch.last_seq()));
    }

    async fn hub_refuses(&mut self, n: u8) {
        let Some(batch) = pick(&mut self.on_the_way, n) else { return };
        if let Some(session) = &self.session {
            session.settle(batch.stream, batch.first_seq, batch.last_seq());
        }
        let name = (batch.stream, batch.first_seq);
        self.outbox.lose(name.0, name.1, name.1, LostReason::Quarantined).await.expect("commits");
        if self.held.rows.contains_key(&name) && !self.held.acked.contains(&name) {
            self.held.rows.remove(&name);
            self.held.lost.insert(name);
        }
    }

    async fn ack_arrives(&mut self, n: u8, twice: bool) {
        let Some((stream, first, last)) = pick(&mut self.answers, n) else { return };
        for _ in 0..=u8::from(twice) {
            self.outbox.ack(stream, first, last).await.expect("commits");
        }
        if let Some(session) = &self.session {
            session.settle(stream, first, last);
        }
        let given = self.held.next.get(&stream).map_or(0, |next| next - 1);
        for name in (first..=last.min(given)).map(|n| (stream, n)) {
            self.held.acked(name, &mut self.displaced);
        }
    }

    async fn restore(&mut self, n: u8) {
        if self.snapshots.is_empty() {
            return;
        }
        let (from, held) = self.snapshots[usize::from(n) % self.snapshots.len()].clone();
        // What only this file had is gone with it.
        let only_here = self.held.rows.keys().filter(|n| !held.rows.contains_key(*n));
        self.excused.extend(only_here.filter(|n| !self.hub.committed.contains_key(*n)).copied());
        self.excused.extend(self.held.lost.iter().filter(|n| !self.hub.lost.contains(n)));
        self.folders += 1;
        let to = self.root.path().join(self.folders.to_string());
        copy_files(&from, &to, None);
        self.held = held;
        self.reopen(to).await;
    }

    fn hub_restore(&mut self, n: u8) {
        if self.backups.is_empty() {
            return;
        }
        let (at, hub) = self.backups[usize::from(n) % self.backups.len()].clone();
        // Acks close to one another are pruned together.
        let within = self.now_s() - at < HUB_RPO.as_secs() as i64 - 60;
        for name in self.hub.committed.keys().filter(|n| !hub.committed.contains_key(*n)) {
            if self.held.rows.contains_key(name) {
                if !within {
                    self.beyond.insert(*name);
                }
                continue;
            }
            if self.held.lost.contains(name) {
                // It was dropped while it was on its way; the next hello says that it is lost.
                continue;
            }
            let known = self.held.next.get(&name.0).is_some_and(|next| name.1 < *next);
            assert!(
                !within || !known || self.displaced.contains(name) || self.excused.contains(name),
                "{name:?} was pruned though a backup within the window lacks it"
            );
            self.excused.insert(*name);
        }
        self.excused.extend(self.hub.lost.iter().filter(|n| !hub.lost.contains(n)));
        self.hub = hub;
        // A hub that went back closes its connections.
        self.on_the_way.clear();
        self.answers.clear();
        self.session = None;
    }

    async fn tidy(&mut self, hours: u8) {
        self.clock.advance(Duration::from_hours(hours.into()));
        while let Outcome::Done { more: true } = self.outbox.ask(Work::Tidy, 0).await.expect("commits") {}
    }

    async fn reopen(&mut self, dir: PathBuf) {
        self.session = None;
        self.dir = dir;
        self.outbox = Outbox::open(&self.dir.join("outbox.db"), self.limits, Arc::new(self.clock.clone()))
            .await
            .expect("opens again");
        self.current.clear();
        self.answers.clear();
    }

    /// The files as they are now, in a new folder; of the log perhaps only the beginning, perhaps with rubbish after it.
    fn copy(&mut self, cut: Option<&Cut>, rubbish: bool) -> PathBuf {
        self.folders += 1;
        let to = self.root.path().join(self.folders.to_string());
        copy_files(&self.dir, &to, cut);
        if rubbish {
            let path = to.join("outbox.db-wal");
            let mut bytes = fs::read(&path).unwrap_or_default();
            bytes.extend((0..5_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8));
            fs::write(&path, bytes).expect("own folder");
        }
        to
    }

    /// The file against the model; what vanished must be accounted for.
    async fn compare(&mut self, appended: bool) {
        let file = File::read(&self.dir);
        let distinct: BTreeSet<_> = file.keys.iter().map(|(key, _)| key).collect();
        assert_eq!(distinct.len(), file.keys.len(), "a key is stored twice");
        assert_eq!(file.cursor, self.held.cursor, "the cursor moves with its records");
        for (name, bytes) in &file.rows {
            assert_eq!(self.held.rows.get(name), Some(bytes), "{name:?} is no row of ours");
        }
        let gone: Vec<Name> = self.held.rows.keys().filter(|n| !file.rows.contains_key(*n)).copied().collect();
        for name in gone {
            self.held.rows.remove(&name);
            if !self.held.acked.contains(&name) {
                let age = self.now_s() - self.appended_s[&name];
                assert!(appended || age > MAX_AGE.as_secs() as i64, "{name:?} was dropped after {age} s");
                self.held.lost.insert(name);
            } else {
                if appended {
                    self.displaced.insert(name);
                }
                if !self.hub.committed.contains_key(&name) {
                    let allowed = appended || self.beyond.contains(&name);
                    assert!(allowed, "{name:?} was pruned though the hub was restored and has not been asked");
                    self.excused.insert(name);
                }
            }
        }
        let quiet: Vec<_> = self.held.next.keys().filter(|s| !file.next.contains_key(*s)).copied().collect();
        for stream in quiet {
            let told = |n: &Name| self.hub.lost.contains(n) || self.excused.contains(n);
            let untold: Vec<_> = self.held.lost.iter().filter(|n| n.0 == stream && !told(n)).collect();
            assert!(untold.is_empty(), "{stream} is forgotten before the hub knows what it lost: {untold:?}");
            let waits = (1..self.held.next[&stream]).map(|n| (stream, n));
            let waits = waits.filter(|n| !self.held.acked.contains(n) && !self.held.lost.contains(n)).count();
            assert_eq!(waits, 0, "{stream} is forgotten and has waiting records");
            self.held.next.remove(&stream);
            self.held.acked.retain(|n| n.0 != stream);
            self.held.lost.retain(|n| n.0 != stream);
        }
        assert_eq!(file.next, self.held.next, "the next numbers");
        let mut lost = BTreeSet::new();
        for s in self.outbox.open_streams() {
            lost.extend(s.lost.iter().flat_map(|(_, f, l)| (*f..=*l).map(|n| (s.name, n)).collect::<Vec<_>>()));
        }
        assert_eq!(lost, self.held.lost, "what is lost is what was dropped, no more and no less");
        let waiting: u64 = self.outbox.status().await.expect("reads").iter().map(|c| c.waiting).sum();
        let expected = self.held.rows.keys().filter(|n| !self.held.acked.contains(n)).count() as u64;
        assert_eq!(waiting, expected, "records that wait");
    }

    /// The link comes back for good: in the end the hub has everything, or knows that it is lost.
    pub(super) async fn end(mut self) {
        self.on_the_way.clear();
        self.connect().await;
        loop {
            let before = self.on_the_way.len();
            self.send(u8::MAX).await;
            if self.on_the_way.len() == before {
                break;
            }
            let batch = self.on_the_way.pop().expect("just sent");
            self.hub_takes(&batch);
            self.ack_arrives(0, false).await;
            self.compare(false).await;
        }
        self.connect().await;
        self.compare(false).await;
        assert_eq!(self.held.rows.keys().filter(|n| !self.held.acked.contains(n)).count(), 0, "all is sent");
        for name in &self.promised {
            let there = self.hub.committed.get(name);
            assert!(there.is_none_or(|b| *b == self.names[name]), "the hub has something else under {name:?}");
            let accounted = there.is_some() || self.hub.lost.contains(name) || self.excused.contains(name);
            assert!(accounted, "{name:?} was promised, and the hub neither has it nor knows that it is lost");
        }
        assert!(self.hub.committed.keys().all(|n| self.names.contains_key(n)), "the hub has what nobody appended");
    }
}

/// Takes one out; `n` means any.
fn pick<T>(of: &mut Vec<T>, n: u8) -> Option<T> {
    if of.is_empty() { None } else { Some(of.remove(usize::from(n) % of.len())) }
}
