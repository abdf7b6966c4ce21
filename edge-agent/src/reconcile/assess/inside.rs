//! What runs inside the right container, in the words of a report: the flows of a Node-RED, the models of an Ollama.
use super::super::{
    clean_up::model_key,
    observe::AppSeen,
    plan::{Blueprint, job_key},
    reduce::{last_given, was_given},
};
use super::{Glance, Verdict, because, plain, silent};
use crate::workload::{
    node_red::{NodeRedSeen, RuntimeEvent},
    ollama::{self, ModelState, OllamaSeen},
};
use redforge_shared::{
    desired::{NodeRed, Ollama},
    flows::FlowSet,
    report::{Health, Phase, Reason, Sync},
};

pub fn node_red(g: &Glance<'_>, w: &NodeRed, seen: &NodeRedSeen) -> Verdict {
    let silent =
        || g.container.map_or_else(|| plain(Phase::Pending, Health::Unknown, Sync::Updating), |c| silent(g, c));
    if !seen.answers {
        return silent();
    }
    let Some(runtime) = &seen.runtime else { return silent() };
    let settings = match &g.wanted.blueprint {
        Blueprint::Ready(shape) => seen.config.is_some() && seen.config != shape.config_hash,
        _ => false,
    };
    let Some(digest) = w.flow_set else {
        let given = g.container.and_then(|c| last_given(g.given, c, g.homes));
        if given.is_some_and(|given| g.wanted.clears.is_none_or(|nothing| !given.is(nothing))) {
            // What it was given is still to be taken out.
            return plain(Phase::Starting, Health::Unknown, Sync::Updating);
        }
        return drifted(flows_run(None, seen, runtime), [(settings, "settings")]);
    };
    let Some(set) = g.flow_sets.get(&digest) else {
        let names = vec![digest.to_string()];
        return Verdict(Phase::Starting, Health::Unknown, Sync::Updating, Some(Reason::BlobMissing), names);
    };
    let edited = seen.hash != Some(set.hash);
    let given = g.container.is_some_and(|c| was_given(g.given, c, digest, g.homes));
    if (edited || seen.credentials_wrong) && !given {
        return plain(Phase::Starting, Health::Unknown, Sync::Updating);
    }
    let modules = seen.modules.is_some() && seen.modules != set.modules_hash();
    let credentials = seen.credentials_wrong;
    let parts = [(edited, "flows"), (credentials, "credentials"), (settings, "settings"), (modules, "modules")];
    drifted(flows_run(Some(set), seen, runtime), parts)
}

/// What a Node-RED says of the flows that it has, whichever it shall have.
pub fn flows_as_they_are(g: &Glance<'_>) -> Option<Verdict> {
    let Some(AppSeen::NodeRed(seen)) = g.app else { return None };
    Some(flows_run(None, seen, seen.runtime.as_ref().filter(|_| seen.answers)?))
}

/// What somebody changed at the host is named; what is worse than that is said instead.
fn drifted(verdict: Verdict, parts: impl IntoIterator<Item = (bool, &'static str)>) -> Verdict {
    let names: Vec<_> = parts.into_iter().filter(|(is, _)| *is).map(|(_, part)| part.to_owned()).collect();
    match verdict {
        Verdict(phase, health, Sync::UpToDate, ..) if !names.is_empty() => {
            Verdict(phase, health, Sync::Drifted, Some(Reason::Edited), names)
        }
        other => other,
    }
}

/// What the runtime says of the flows that it has, be they a flow set's or whoever's.
fn flows_run(set: Option<&FlowSet>, seen: &NodeRedSeen, runtime: &RuntimeEvent) -> Verdict {
    match (runtime.state.as_str(), runtime.error.as_deref()) {
        ("start", None) if set.is_none() || (seen.deployed.is_some() && seen.deployed == seen.rev) => {
            plain(Phase::Running, Health::Healthy, Sync::UpToDate)
        }
        (_, Some("missing-types")) => {
            // Only names that the flow set itself uses go into a report.
            let used = set.map(|set| set.flows.node_types()).unwrap_or_default().into_iter();
            let names = used.filter(|t| runtime.types.contains(t)).collect();
            Verdict(Phase::Starting, Health::Error, Sync::Failed, Some(Reason::MissingTypes), names)
        }
        ("safe", _) => because(Phase::Safe, Health::Error, Sync::Failed, Reason::SafeMode),
        ("start", None) => plain(Phase::Starting, Health::Unknown, Sync::Updating),
        (_, None) => because(Phase::Starting, Health::Error, Sync::Drifted, Reason::FlowsStopped),
        (_, Some(_)) => because(Phase::Starting, Health::Error, Sync::Failed, Reason::FlowsStopped),
    }
}

pub fn models(g: &Glance<'_>, w: &Ollama, seen: &OllamaSeen) -> Verdict {
    let lacking: Vec<_> =
        w.models.iter().map(|m| (m, ollama::state(m, &seen.held))).filter(|(_, s)| *s != ModelState::Right).collect();
    if lacking.is_empty() {
        let idle: Vec<_> = ollama::not_loaded(&w.models, seen).map(|m| m.name.clone()).collect();
        let id = g.container.map_or("", |c| &c.id);
        let failure = idle.iter().find_map(|m| g.jobs.failure(&job_key::load(id, m)));
        return match (failure, idle.is_empty()) {
            (_, true) => plain(Phase::Running, Health::Healthy, Sync::UpToDate),
            // It is there and is not in memory: the first question takes longer.
            (Some(_), false) => {
                Verdict(Phase::Running, Health::Degraded, Sync::OutOfDate, Some(Reason::ProbeFailed), idle)
            }
            (None, false) => Verdict(Phase::Running, Health::Healthy, Sync::Updating, None, idle),
        };
    }
    let mut names: Vec<_> = lacking.iter().map(|(m, _)| m.name.clone()).collect();
    // Right before and another now: somebody moved the tag.
    let moved = lacking.iter().any(|(m, state)| {
        let known = g.memory.brought_models.get(&model_key(&g.spec.name, &m.name));
        *state == ModelState::Other && known.is_some_and(|k| k.digest == m.digest)
    });
    let failure = lacking.iter().find_map(|(m, state)| {
        let (failed, more) = g.jobs.failure(&job_key::model(&g.spec.name, &m.name))?;
        let digest = *state == ModelState::Other && failed == Reason::ModelMissing;
        Some((if digest { Reason::ModelDigest } else { failed }, more))
    });
    names.extend(failure.iter().flat_map(|(_, more)| *more).cloned());
    match (failure, moved) {
        (Some((reason, _)), false) => Verdict(Phase::Running, Health::Error, Sync::OutOfDate, Some(reason), names),
        (Some((reason, _)), true) => Verdict(Phase::Running, Health::Error, Sync::Drifted, Some(reason), names),
        (None, true) => Verdict(Phase::Pulling, Health::Degraded, Sync::Drifted, Some(Reason::ModelDigest), names),
        (None, false) => Verdict(Phase::Pulling, Health::Unknown, Sync::Updating, None, names),
    }
}
