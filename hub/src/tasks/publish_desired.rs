//! Renders every host's desired state and publishes it where it changed: one transaction per host.
//!
//! Locks the host's row first, then reads the inputs, so that two hubs never publish from an older view. Step four of the
//! flow down; `wake_sessions` tells the sessions.
use crate::{
    fleet::{
        render::{self, Input, RenderError},
        runtimes::{self, CannotShare},
    },
    store::{
        Store, StoreError,
        desired::{Inputs, PublishTx},
        hints::Hints,
    },
    tasks::Pace,
};
use redforge_shared::{
    clock::SharedClock,
    desired::InvalidDesired,
    error::Chain,
    ids::{Digest, HostId, Name},
    manifest,
};
use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// Besides hints, everything is looked at this often.
const TICK: Duration = Duration::from_secs(10);

/// Why a host's desired state was not published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error("reading or writing the desired state")]
    Store(#[source] StoreError),
    #[error("instance '{name}' is stored in a form this hub does not read")]
    Spec { name: Name, source: serde_json::Error },
    #[error("the flow sets in the runtime of instance '{runtime}' cannot be merged")]
    Share { runtime: Name, source: CannotShare },
    #[error("flow set '{0}' has lost its content")]
    Lost(Name),
    #[error("rendering the desired state")]
    Render(#[source] RenderError),
    #[error("writing the desired state as a document")]
    Document(#[source] InvalidDesired),
}

/// Runs until the stop.
pub async fn run(store: Store, hints: Hints, clock: SharedClock, stop: CancellationToken) {
    let mut pace = Pace::new(hints.subscribe(&["host", "instance", "flow_set", "site", "pushed_artifact"]), TICK, stop);
    // What failed last for a host, so that the log says it once.
    let mut failed: HashMap<HostId, String> = HashMap::new();
    loop {
        pace.begin();
        pass(&store, &clock, &mut failed).await;
        if !pace.wait().await {
            return;
        }
    }
}

/// One look at every host: idempotent.
async fn pass(store: &Store, clock: &SharedClock, failed: &mut HashMap<HostId, String>) {
    let hosts = match store.host_ids().await {
        Ok(hosts) => hosts,
        Err(e) => {
            tracing::debug!(error = %Chain(&e), "hosts not listed");
            return;
        }
    };
    failed.retain(|host, _| hosts.contains(host));
    for host in hosts {
        match publish(store, host, clock).await {
            Ok(generation) => {
                failed.remove(&host);
                if let Some(generation) = generation {
                    tracing::info!(host.id = %host, generation, "desired state published");
                }
            }
            Err(PublishError::Store(e)) if e.is_unavailable() => return,
            Err(e) => {
                let text = Chain(&e).to_string();
                if failed.get(&host) != Some(&text) {
                    tracing::error!(host.id = %host, error = text, "desired state not published");
                    failed.insert(host, text);
                }
            }
        }
    }
}

/// Publishes one host's desired state. Returns the new generation, if there is one.
pub async fn publish(store: &Store, host: HostId, clock: &SharedClock) -> Result<Option<u64>, PublishError> {
    let Some(mut tx) = store.begin_publish(host).await.map_err(PublishError::Store)? else { return Ok(None) };
    let inputs = tx.inputs().await.map_err(PublishError::Store)?;
    write(tx, host, inputs, clock).await
}

/// One flow set for each runtime that has guests, made once for the same parts.
async fn merge_shared(
    tx: &mut PublishTx,
    instances: &[(Name, manifest::InstanceSpec)],
    newest: &BTreeMap<Name, Digest>,
    clock: &SharedClock,
) -> Result<BTreeMap<Name, Digest>, PublishError> {
    let mut merged = BTreeMap::new();
    for (runtime, parts) in runtimes::shared(instances.iter().map(|(n, s)| (n, s))) {
        let known = |p: runtimes::Part| Some((p.instance, *newest.get(&p.flow_set)?));
        // Render tells of one that does not exist.
        let Some(parts) = parts.into_iter().map(known).collect::<Option<Vec<_>>>() else { continue };
        let identity = runtimes::identity(&parts);
        let digest = match tx.merged(identity).await.map_err(PublishError::Store)? {
            Some(digest) => digest,
            None => {
                let mut tars = Vec::with_capacity(parts.len());
                for (instance, digest) in parts {
                    let tar = tx.flow_set_tar(digest).await.map_err(PublishError::Store)?;
                    tars.push((instance.clone(), tar.ok_or(PublishError::Lost(instance))?));
                }
                let tar =
                    runtimes::pack(&tars).map_err(|source| PublishError::Share { runtime: runtime.clone(), source })?;
                tx.keep_merged(identity, &tar, clock.now()).await.map_err(PublishError::Store)?
            }
        };
        merged.insert(runtime, digest);
    }
    Ok(merged)
}

async fn write(
    mut tx: PublishTx,
    host: HostId,
    inputs: Inputs,
    clock: &SharedClock,
) -> Result<Option<u64>, PublishError> {
    let mut instances = Vec::with_capacity(inputs.instances.len());
    for (name, spec) in inputs.instances {
        match serde_json::from_value::<manifest::InstanceSpec>(spec) {
            Ok(spec) => instances.push((name, spec)),
            Err(source) => return Err(PublishError::Spec { name, source }),
        }
    }
    let merged = merge_shared(&mut tx, &instances, &inputs.flow_sets, clock).await?;
    let input = Input {
        merged,
        host,
        host_name: inputs.host_name,
        site: inputs.site,
        policy: inputs.policy,
        instances,
        flow_sets: inputs.flow_sets,
        images: inputs.given.images,
        models: inputs.given.models,
    };
    let document = render::render(&input).map_err(PublishError::Render)?.canonical().map_err(PublishError::Document)?;
    tx.commit(&document, clock.now()).await.map_err(PublishError::Store)
}
