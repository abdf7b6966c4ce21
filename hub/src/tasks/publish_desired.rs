//! Renders every host's desired state and writes the next generation where its content changed. Second step of the way
//! down, after the operators' verbs have committed.
//!
//! One transaction per host, its row locked first, so that two hubs (or an apply in between) cannot write an old content
//! over a new one. Deliberately unknown: sessions; they hear of it by the hint that the commit sends.
use crate::{
    fleet::render::{self, RenderError},
    store::{Store, StoreError, desired::Inputs, events::NewEvent, hints::Hints},
};
use redforge_shared::{
    clock::SharedClock,
    desired::{Canonical, InvalidDesired},
    error::Chain,
    ids::HostId,
    manifest,
};
use std::{collections::HashMap, time::Duration};
use tokio_util::sync::CancellationToken;

/// What a host's document is made of stands in these tables.
const TABLES: &[&str] = &["host", "site", "instance", "flow_set"];
/// Rendering a thousand hosts costs seconds: the tick only makes up for lost hints.
const TICK: Duration = Duration::from_secs(30);

/// Why a host has no new document.
#[derive(Debug, thiserror::Error)]
enum PublishError {
    #[error("instance '{instance}' has a stored spec that this hub cannot read")]
    Spec { instance: String, source: serde_json::Error },
    #[error("the desired state cannot be rendered")]
    Render(#[source] RenderError),
    #[error("the desired state cannot be written")]
    Document(#[source] InvalidDesired),
}

/// The task.
pub struct PublishDesired {
    store: Store,
    clock: SharedClock,
    /// What was last said about a host that cannot be rendered, so that a tick does not say it again.
    told: HashMap<HostId, String>,
}

impl PublishDesired {
    /// Publishes from this store.
    pub fn new(store: Store, clock: SharedClock) -> Self {
        Self { store, clock, told: HashMap::new() }
    }

    /// Runs until the stop.
    pub async fn run(mut self, hints: Hints, stop: CancellationToken) {
        super::run_passes(stop, hints.subscribe(TABLES), TICK, async || self.pass().await).await;
    }

    /// Looks at every host once.
    pub async fn pass(&mut self) {
        let hosts = match self.store.host_ids().await {
            Ok(hosts) => hosts,
            Err(e) if e.is_unavailable() => return,
            Err(e) => {
                tracing::error!(error = %Chain(&e), "the hosts to publish to cannot be listed");
                return;
            }
        };
        for host in hosts {
            match self.publish(host).await {
                Ok(Some(generation)) => tracing::info!(host.id = %host, generation, "desired state published"),
                Ok(None) => {}
                Err(e) if e.is_unavailable() => return,
                Err(e) => tracing::error!(host.id = %host, error = %Chain(&e), "desired state not published"),
            }
        }
    }

    async fn publish(&mut self, host: HostId) -> Result<Option<u64>, StoreError> {
        let Some(mut tx) = self.store.begin_publish(host).await? else { return Ok(None) };
        let inputs = tx.inputs().await?;
        let name = inputs.host_name.to_string();
        match document(host, inputs) {
            Ok(doc) => {
                self.told.remove(&host);
                tx.commit(&doc, self.clock.now()).await
            }
            Err(e) => {
                drop(tx);
                self.tell(host, &name, &Chain(&e).to_string()).await?;
                Ok(None)
            }
        }
    }

    /// The host keeps what it has; operators are told once.
    async fn tell(&mut self, host: HostId, name: &str, problem: &str) -> Result<(), StoreError> {
        if self.told.get(&host).is_some_and(|said| said == problem) {
            return Ok(());
        }
        tracing::warn!(host.id = %host, error = problem, "the host keeps its last desired state");
        let event = NewEvent {
            at: self.clock.now(),
            reason: "DESIRED_NOT_RENDERED",
            warning: true,
            resource: format!("hosts/{name}"),
            actor: "hub".into(),
            message: format!("the host keeps its last desired state: {problem}"),
        };
        self.store.record_event(&event).await?;
        self.told.insert(host, problem.into());
        Ok(())
    }
}

fn document(host: HostId, inputs: Inputs) -> Result<Canonical, PublishError> {
    let mut instances = Vec::with_capacity(inputs.instances.len());
    for (name, spec) in inputs.instances {
        let spec: manifest::InstanceSpec =
            serde_json::from_value(spec).map_err(|source| PublishError::Spec { instance: name.to_string(), source })?;
        instances.push((name, spec));
    }
    let input = render::Input {
        host,
        host_name: inputs.host_name,
        site: inputs.site,
        policy: inputs.policy,
        instances,
        flow_sets: inputs.flow_sets,
    };
    render::render(&input).map_err(PublishError::Render)?.canonical().map_err(PublishError::Document)
}
