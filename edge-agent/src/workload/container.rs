//! Any container: its command, and the few capabilities that images need which start as root.
use super::{Rendered, Surroundings, Unmet, broker_env, serving};
use crate::runtime::ImageSeen;
use redforge_shared::desired::{Container, InstanceSpec, Workload};

/// Entrypoints that start as root commonly take over their data folder and then become another user: to change owners
/// (CHOWN, FOWNER), to reach a folder that is closed to root (DAC_OVERRIDE) and to become the user (SETUID, SETGID). They
/// act on the container's own files only. An image that names a user gets none.
const ROOT_START: [&str; 5] = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID"];

pub(super) fn render(
    spec: &InstanceSpec,
    workload: &Container,
    image: &ImageSeen,
    around: Surroundings<'_>,
    rendered: &mut Rendered,
) -> Result<(), Unmet> {
    if let Some(named) = &workload.broker
        && let Some(broker) = serving(around.desired, Some(named), |w| matches!(w, Workload::Mosquitto(_)))?
    {
        rendered.container.env.extend(broker_env(spec, broker, around.secrets));
    }
    rendered.container.command.clone_from(&workload.command);
    let user = image.user.split(':').next().unwrap_or_default();
    if matches!(user, "" | "0" | "root") {
        rendered.container.capabilities = ROOT_START.map(str::to_owned).to_vec();
    }
    Ok(())
}
