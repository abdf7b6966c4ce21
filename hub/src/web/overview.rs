//! One look at the house, and the templates it is poured into.
use super::rows::{DraftRow, EventRow, HostRow, InstanceRow, RecordRow, clock_time, records, tile_tone};
use crate::api::{Api, ApiError, Caller, Role};
use askama::Template;
use redforge_shared::{clock::SharedClock, error::Chain, wire::pb};
use std::collections::BTreeMap;

/// Most hosts and instances that the page shows; more is for the command line.
const MOST: i32 = 500;
const EVENTS: u32 = 20;

/// Everything the page shows.
#[derive(Debug, Default)]
pub struct Overview {
    /// When the look was taken.
    pub at: String,
    /// Set when the hub could not look: then everything else is empty or old.
    pub trouble: String,
    pub tiles: Vec<Tile>,
    pub hosts: Vec<HostRow>,
    pub instances: Vec<InstanceRow>,
    pub drafts: Vec<DraftRow>,
    pub records: Vec<RecordRow>,
    pub events: Vec<EventRow>,
}

/// A number at the top.
#[derive(Debug)]
pub struct Tile {
    pub tone: &'static str,
    pub icon: &'static str,
    pub value: String,
    pub label: &'static str,
}

/// The whole page.
#[derive(Template)]
#[template(path = "page.html")]
pub struct Page<'a> {
    pub o: &'a Overview,
}

/// Where a token is asked for.
#[derive(Template)]
#[template(path = "login.html")]
pub struct LoginPage {
    pub problem: &'static str,
}

macro_rules! part {
    ($name:ident, $path:literal) => {
        #[derive(Template)]
        #[template(path = $path)]
        struct $name<'a> {
            o: &'a Overview,
        }
    };
}
part!(Tiles, "tiles.html");
part!(Hosts, "hosts.html");
part!(Instances, "instances.html");
part!(Drafts, "drafts.html");
part!(Records, "records.html");
part!(Events, "events.html");

/// The parts that change, as JSON of element id and HTML.
pub fn parts(o: &Overview) -> String {
    let html = |t: Result<String, askama::Error>| t.unwrap_or_default();
    let parts = BTreeMap::from([
        ("at", o.at.clone()),
        ("trouble", o.trouble.clone()),
        ("tiles", html(Tiles { o }.render())),
        ("hosts", html(Hosts { o }.render())),
        ("instances", html(Instances { o }.render())),
        ("drafts", html(Drafts { o }.render())),
        ("records", html(Records { o }.render())),
        ("events", html(Events { o }.render())),
    ]);
    // JSON escapes every line break, so one event is one line whatever the texts hold.
    serde_json::to_string(&parts).unwrap_or_default()
}

impl Overview {
    /// Looks at the house as a viewer.
    pub async fn look(api: &Api, clock: &SharedClock) -> Self {
        let at = clock_time(clock.now());
        match Self::read(api, clock).await {
            Ok(o) if api.disk_is_full() => {
                let trouble =
                    "The disk of the hub's database is full: nothing new is stored until some space is freed.";
                Self { at, trouble: trouble.into(), ..o }
            }
            Ok(o) => Self { at, ..o },
            Err(e) => {
                tracing::debug!(error = %Chain(&e), "the page cannot look");
                let trouble = "The hub cannot read its database at the moment; it keeps trying.".into();
                Self { at, trouble, ..Self::default() }
            }
        }
    }

    async fn read(api: &Api, clock: &SharedClock) -> Result<Self, ApiError> {
        let viewer = Caller { name: "page".into(), role: Role::Viewer };
        let hosts = pb::ListHostsRequest { page_size: MOST, ..Default::default() };
        let hosts = api.list_hosts(&viewer, hosts).await?.hosts;
        let instances = pb::ListInstancesRequest { page_size: MOST, ..Default::default() };
        let instances = api.list_instances(&viewer, instances).await?.instances;
        let streams = api.list_streams(&viewer, pb::ListStreamsRequest::default()).await?.streams;
        let drafts = api.list_flow_set_drafts(&viewer, pb::ListFlowSetDraftsRequest::default()).await?.drafts;
        let drafts: Vec<_> = drafts.into_iter().filter(|d| d.adopted_revision == 0).collect();
        let events = api.list_events(&viewer, pb::ListEventsRequest { limit: EVENTS, ..Default::default() }).await?;
        let now = clock.now();
        let records = records(&hosts, &streams, now);
        let hosts: Vec<HostRow> = hosts.iter().map(|h| HostRow::new(h, now)).collect();
        let overview = Self {
            instances: instances.iter().map(|i| InstanceRow::new(i, &hosts, &drafts, now)).collect(),
            drafts: drafts.iter().map(|d| DraftRow::new(d, now)).collect(),
            hosts,
            events: events.events.iter().map(|e| EventRow::new(e, now)).collect(),
            records,
            ..Self::default()
        };
        Ok(Self { tiles: overview.tiles(), ..overview })
    }

    pub(super) fn tiles(&self) -> Vec<Tile> {
        let online = self.hosts.iter().filter(|h| h.link.word == "Online").count();
        let running = self.instances.iter().filter(|i| i.phase.word == "Running").count();
        let sum = |f: fn(&RecordRow) -> u64| self.records.iter().map(f).sum::<u64>();
        let (gaps, lost) = (sum(|r| r.gaps), sum(|r| r.lost));
        let of = |n: usize, all: usize| if n == all && all > 0 { "good" } else { "warn" };
        let tile = |tone: &'static str, value: String, label| Tile { tone, icon: tile_tone(tone), value, label };
        vec![
            tile(of(online, self.hosts.len()), format!("{online} of {}", self.hosts.len()), "hosts online"),
            tile(
                of(running, self.instances.len()),
                format!("{running} of {}", self.instances.len()),
                "instances running",
            ),
            tile("plain", sum(|r| r.committed).to_string(), "records arrived"),
            tile(
                "plain",
                sum(|r| r.waiting).to_string(),
                // What a host that is away holds by now, nobody here knows.
                if online == self.hosts.len() { "waiting at the edge" } else { "waiting, as last told" },
            ),
            tile(if gaps > 0 { "warn" } else { "plain" }, gaps.to_string(), "gaps"),
            tile(if lost > 0 { "bad" } else { "plain" }, lost.to_string(), "lost"),
            tile("plain", sum(|r| r.resent).to_string(), "resent, stored once"),
            tile("plain", sum(|r| r.absorbed).to_string(), "duplicates absorbed"),
        ]
    }
}
