//! Mosquitto: its configuration, and the users and rights that it rereads on SIGHUP.
//!
//! The configuration needs a new container to change; users and rights lie in the live volume, so a new instance on the
//! host never restarts the broker (a broker that ends by SIGKILL loses its queue).
use super::{Files, Rendered, SecretNeed, Secrets, Surroundings, secret_text, serving};
use crate::runtime::File;
use aws_lc_rs::pbkdf2;
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use redforge_shared::{
    desired::{DesiredState, InstanceSpec, Mosquitto, Workload},
    ids::Name,
};
use std::{fmt::Write as _, num::NonZeroU32};

/// Where the broker listens for the host's instances and the agent.
pub const PORT: u16 = 1883;
/// The agent's own user: `_` cannot occur in an instance's name.
pub const AGENT_USER: &str = "_redforge";
/// The image's own user; started as it, the broker needs no capability to become it.
const UID: u32 = 1883;
/// Where the broker reads users and rights.
pub const LIVE_PATH: &str = "/mosquitto/live";
/// mosquitto_passwd's own figure. The passwords are 192 random bits: no more work is needed to hide them.
const ITERATIONS: u32 = 101;

/// Password and salt of every user of this broker.
pub(super) fn secrets(broker: &Name, desired: &DesiredState) -> Vec<SecretNeed> {
    users(broker, desired)
        .into_iter()
        .flat_map(|user| [(password_name(broker, &user), 24), (salt_name(broker, &user), 12)])
        .collect()
}

fn password_name(broker: &Name, user: &str) -> String {
    format!("mosquitto/{broker}/{user}/password")
}

fn salt_name(broker: &Name, user: &str) -> String {
    format!("mosquitto/{broker}/{user}/salt")
}

/// A user's password at a broker.
pub fn password(secrets: &Secrets, broker: &Name, user: &str) -> String {
    secret_text(secrets, &password_name(broker, user))
}

/// The agent, and every instance that is to use this broker.
fn users(broker: &Name, desired: &DesiredState) -> Vec<String> {
    let mut users = vec![AGENT_USER.to_owned()];
    for spec in &desired.instances {
        if let Workload::NodeRed(n) = &spec.workload
            && let Ok(Some(name)) = serving(desired, n.broker.as_ref(), |w| matches!(w, Workload::Mosquitto(_)))
            && name == broker
        {
            users.push(spec.name.to_string());
        }
    }
    users
}

pub(super) fn render(spec: &InstanceSpec, workload: &Mosquitto, around: Surroundings<'_>, rendered: &mut Rendered) {
    let config = file("mosquitto.conf", config(workload));
    let volume = around.names.config_volume(&spec.name, Files::hash(std::slice::from_ref(&config)));
    rendered.config = Some(Files { volume, path: "/mosquitto/config".into(), files: vec![config] });
    let users = users(&spec.name, around.desired);
    rendered.live = Some(Files {
        volume: around.names.live_volume(&spec.name),
        path: LIVE_PATH.into(),
        files: vec![file("acl", acl(&users)), file("passwd", passwd(&spec.name, &users, around.secrets))],
    });
    rendered.container.user = Some(format!("{UID}:{UID}"));
    // It writes its queues to disk before it ends.
    rendered.container.stop_timeout_s = 60;
}

fn file(name: &str, text: String) -> File {
    File { name: name.into(), bytes: text.into_bytes(), uid: UID, mode: 0o400 }
}

fn config(w: &Mosquitto) -> String {
    let Mosquitto { max_queued_messages, max_queued_bytes, max_inflight_messages, message_size_limit } = w;
    format!(
        "listener {PORT}\n\
         allow_anonymous false\n\
         password_file {LIVE_PATH}/passwd\n\
         acl_file {LIVE_PATH}/acl\n\
         persistence true\n\
         persistence_location /mosquitto/data/\n\
         autosave_interval 30\n\
         max_queued_messages {max_queued_messages}\n\
         max_queued_bytes {max_queued_bytes}\n\
         max_inflight_messages {max_inflight_messages}\n\
         max_inflight_bytes 33554432\n\
         message_size_limit {message_size_limit}\n\
         sys_interval 10\n\
         log_dest stderr\n\
         log_type error\n\
         log_type warning\n\
         log_type notice\n"
    )
}

/// The host's instances form one trust domain: each may use any topic but the broker's own (`#` does not match `$SYS`).
/// The agent only reads, and only what it collects.
fn acl(users: &[String]) -> String {
    let mut text =
        format!("user {AGENT_USER}\ntopic read redforge/records/+\ntopic read $SYS/broker/publish/messages/dropped\n");
    for user in users.iter().filter(|u| *u != AGENT_USER) {
        let _ = write!(text, "\nuser {user}\ntopic readwrite #\n");
    }
    text
}

/// Lines as mosquitto_passwd writes them: `user:$7$iterations$salt$hash`, PBKDF2 with SHA-512.
fn passwd(broker: &Name, users: &[String], secrets: &Secrets) -> String {
    let iterations = NonZeroU32::new(ITERATIONS).expect("the figure is not zero");
    let mut text = String::new();
    for user in users {
        let salt = secrets.get(&salt_name(broker, user)).expect("`secrets` names every salt");
        let mut hash = [0; 64];
        let password = password(secrets, broker, user);
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA512, iterations, salt, password.as_bytes(), &mut hash);
        let _ = writeln!(text, "{user}:$7${ITERATIONS}${}${}", BASE64.encode(salt), BASE64.encode(hash));
    }
    text
}
