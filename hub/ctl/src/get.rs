//! `get`: lists and single resources, once or watched.
use crate::{
    cli::{Get, Kind},
    config::Connection,
    connection::{self, Admin},
    failure::{Exit, Failure, Outcome},
    output::{self, Format, Listing},
    suggest, views, words,
};
use redforge_shared::wire::pb;
use serde_json::Value;
use std::{collections::BTreeMap, time::Duration};

const PAGE: i32 = 1000;
/// How often a watcher looks.
const EVERY: Duration = Duration::from_secs(2);

/// Shows what was asked for.
pub async fn run(settings: &Connection, a: &Get) -> Outcome {
    let mut admin = connection::connect(settings).await?;
    if a.watch {
        return watch(&mut admin, a).await;
    }
    listing(&mut admin, a).await?.print(a.output)
}

async fn listing(admin: &mut Admin, a: &Get) -> Outcome<Listing> {
    let wide = a.output == Format::Wide;
    let typed = a.name.as_deref();
    let mut listing = match a.kind {
        Kind::Hosts => views::hosts(&some_hosts(admin, typed).await?, wide),
        Kind::Instances => {
            let parent = words::host_filter(a.host.as_ref())?;
            check_host(admin, &parent).await?;
            views::instances(&some_instances(admin, typed, &parent).await?, wide)
        }
        Kind::Sites => {
            let all = sites(admin).await?;
            views::sites(&only(all, typed, "sites/", "site", |s| &s.name)?)
        }
        Kind::Flowsets => {
            let all = flow_sets(admin).await?;
            views::flow_sets(&only(all, typed, "flowsets/", "flow set", |f| &f.name)?)
        }
        Kind::Collections => {
            let all = admin.list_collections(pb::ListCollectionsRequest {}).await?.into_inner().collections;
            views::collections(&only(all, typed, "", "collection", |c| &c.name)?)
        }
        Kind::Events => {
            let host = words::host_filter(a.host.as_ref().or(a.name.as_ref()))?;
            check_host(admin, &host).await?;
            let request = pb::ListEventsRequest { limit: 50, host };
            views::events(&admin.list_events(request).await?.into_inner().events)
        }
    };
    listing.single = typed.is_some() && a.kind != Kind::Events;
    Ok(listing)
}

/// All of a list, or the one that was named.
fn only<T>(all: Vec<T>, typed: Option<&str>, prefix: &str, what: &str, name: fn(&T) -> &String) -> Outcome<Vec<T>> {
    let Some(typed) = typed else { return Ok(all) };
    let full = format!("{prefix}{}", words::name(typed, prefix)?);
    let known: Vec<String> = all.iter().map(|t| words::last(name(t)).to_owned()).collect();
    let found: Vec<T> = all.into_iter().filter(|t| *name(t) == full).collect();
    if found.is_empty() {
        let failure = Failure::new(Exit::NotFound, format!("no {what} is named '{typed}'"));
        return Err(suggest::nearest(failure, typed, known));
    }
    Ok(found)
}

/// A filter by a host that does not exist is a mistake, and not a list without rows.
pub async fn check_host(admin: &mut Admin, filter: &str) -> Outcome {
    match filter.strip_prefix("hosts/") {
        Some(host) => some_hosts(admin, Some(host)).await.map(drop),
        None => Ok(()),
    }
}

async fn some_hosts(admin: &mut Admin, typed: Option<&str>) -> Outcome<Vec<pb::Host>> {
    let Some(typed) = typed else { return hosts(admin).await };
    let name = format!("hosts/{}", words::name(typed, "hosts/")?);
    match admin.get_host(pb::GetHostRequest { name }).await {
        Ok(host) => Ok(vec![host.into_inner()]),
        Err(status) => {
            let known = hosts(admin).await.unwrap_or_default();
            Err(suggest::nearest(status.into(), typed, known.iter().map(|h| words::last(&h.name).to_owned())))
        }
    }
}

async fn some_instances(admin: &mut Admin, typed: Option<&str>, parent: &str) -> Outcome<Vec<pb::Instance>> {
    let Some(typed) = typed else { return instances(admin, parent).await };
    let name = match parent.strip_prefix("hosts/") {
        Some(host) if !typed.contains('/') => words::instance_name(&format!("{host}/{typed}"))?,
        _ => words::instance_name(typed)?,
    };
    instance(admin, &name).await.map(|i| vec![i])
}

/// One instance; a near miss is suggested.
pub async fn instance(admin: &mut Admin, name: &str) -> Outcome<pb::Instance> {
    match admin.get_instance(pb::GetInstanceRequest { name: name.into() }).await {
        Ok(instance) => Ok(instance.into_inner()),
        Err(status) => {
            let known = instances(admin, "").await.unwrap_or_default();
            let short = |name: &str| {
                let (host, instance) = views::instance_parts(name);
                format!("{host}/{instance}")
            };
            Err(suggest::nearest(status.into(), &short(name), known.iter().map(|i| short(&i.name))))
        }
    }
}

macro_rules! pages {
    ($(#[$doc:meta])* $name:ident, $item:ident, $call:ident, $request:expr, $field:ident) => {
        $(#[$doc])*
        pub async fn $name(admin: &mut Admin) -> Outcome<Vec<pb::$item>> {
            let (mut all, mut page_token) = (Vec::new(), String::new());
            loop {
                let request = $request(page_token);
                let page = admin.$call(request).await?.into_inner();
                all.extend(page.$field);
                page_token = page.next_page_token;
                if page_token.is_empty() {
                    return Ok(all);
                }
            }
        }
    };
}

pages!(
    /// Every host.
    hosts, Host, list_hosts, |page_token| pb::ListHostsRequest { page_size: PAGE, page_token, site: String::new() }, hosts
);
pages!(
    /// Every site.
    sites, Site, list_sites, |page_token| pb::ListSitesRequest { page_size: PAGE, page_token }, sites
);
pages!(
    /// Every flow set.
    flow_sets, FlowSet, list_flow_sets, |page_token| pb::ListFlowSetsRequest { page_size: PAGE, page_token }, flow_sets
);

/// Every instance, of one host or of all.
pub async fn instances(admin: &mut Admin, parent: &str) -> Outcome<Vec<pb::Instance>> {
    let (mut all, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = pb::ListInstancesRequest { page_size: PAGE, page_token, parent: parent.into() };
        let page = admin.list_instances(request).await?.into_inner();
        all.extend(page.instances);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(all);
        }
    }
}

/// Prints everything, then each resource again when anything but an age in it changes, and says what is gone.
async fn watch(admin: &mut Admin, a: &Get) -> Outcome {
    let mut seen: BTreeMap<String, Value> = BTreeMap::new();
    let (mut first, mut told, mut away) = (true, false, false);
    loop {
        let listing = match listing(admin, a).await {
            Ok(listing) => listing,
            // Whoever watches wants to see the hub come back.
            Err(failure) if failure.exit == Exit::Unreachable && !first => {
                if !std::mem::replace(&mut away, true) {
                    output::say(&format!("{}; dialling again", failure.errors.join("; ")));
                }
                tokio::time::sleep(EVERY).await;
                continue;
            }
            Err(failure) => return Err(failure),
        };
        if std::mem::take(&mut away) {
            output::say("the hub is back");
        }
        let now: BTreeMap<String, Value> = listing.keys().zip(listing.objects.iter().map(lasting)).collect();
        let changed: Vec<usize> =
            listing.keys().enumerate().filter(|(_, key)| seen.get(key) != now.get(key)).map(|(i, _)| i).collect();
        if now.is_empty() && !told {
            output::say(listing.empty);
            told = true;
        }
        // The head stands above the first row there is.
        if !changed.is_empty() {
            listing.print_some(&changed, a.output, first)?;
            first = false;
        }
        for gone in seen.keys().filter(|key| !now.contains_key(*key)) {
            output::say(&format!("{gone} is gone"));
        }
        seen = now;
        tokio::time::sleep(EVERY).await;
    }
}

/// An object without what changes at every look although nothing happened.
fn lasting(object: &Value) -> Value {
    let mut object = object.clone();
    if let Value::Object(map) = &mut object {
        for aging in ["reportAgeS", "lastSeenAt"] {
            map.remove(aging);
        }
        if let Some(Value::Object(facts)) = map.get_mut("facts") {
            facts.remove("diskFreeBytes");
        }
    }
    object
}
