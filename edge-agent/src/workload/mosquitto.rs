//! Mosquitto: its configuration, and the users and rights that it rereads on SIGHUP.
//!
//! The configuration needs a new container to change; users and rights lie in the live volume, so a new instance on the
//! host never restarts the broker (a broker that ends by SIGKILL loses its queue).
use super::{Files, Rendered, SecretNeed, Secrets, Surroundings, broker_of, secret_text};
use crate::runtime::File;
use aws_lc_rs::pbkdf2;
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use redforge_shared::{
    desired::{DesiredState, InstanceSpec, MAX_READS, Mosquitto, Workload, is_topic_filter},
    ids::Name,
    scale::SCALE_TOPIC,
};
use std::{fmt::Write as _, num::NonZeroU32};

/// Where the broker listens for the host's instances and the agent.
pub const PORT: u16 = 1883;
/// The agent's own user: `_` cannot occur in an instance's name.
pub const AGENT_USER: &str = "_redforge";
/// The image's own user; started as it, the broker needs no capability to become it.
const UID: u32 = 1883;
/// Where the agent's echo goes, and comes from.
pub const ECHO_TOPIC: &str = "redforge/probe/echo";
/// Where the broker reads users and rights.
pub const LIVE_PATH: &str = "/mosquitto/live";
/// Where the broker keeps its sessions and what waits in them.
pub const DATA_PATH: &str = "/mosquitto/data";
/// mosquitto_passwd's own figure. The passwords are 192 random bits: no more work is needed to hide them.
const ITERATIONS: u32 = 101;

/// Password and salt of every user of this broker.
pub(super) fn secrets(broker: &Name, desired: &DesiredState) -> Vec<SecretNeed> {
    users(broker, desired)
        .into_iter()
        .flat_map(|user| [(password_name(broker, &user.name), 24), (salt_name(broker, &user.name), 12)])
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

/// Who may use the broker, with what it may read beside the application's topics.
struct User {
    name: String,
    reads: Vec<String>,
    /// May it say what waits for it?
    scales: bool,
}

/// The agent, and every instance that is to use this broker.
fn users(broker: &Name, desired: &DesiredState) -> Vec<User> {
    let reads =
        ["redforge/records/+", "redforge/scale/+", "$SYS/broker/publish/messages/dropped"].map(str::to_owned).to_vec();
    let mut users = vec![User { name: AGENT_USER.to_owned(), reads, scales: false }];
    for spec in &desired.instances {
        if broker_of(spec, desired) == Some(broker) {
            let reads: &[String] = if let Workload::NodeRed(n) = &spec.workload { &n.reads } else { &[] };
            // A filter that is none could be a line of its own.
            let reads = reads.iter().filter(|f| is_topic_filter(f)).take(MAX_READS).cloned().collect();
            let scales = spec.autoscale.is_some();
            users.push(User { name: spec.name.to_string(), reads, scales });
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
         persistence_location {DATA_PATH}/\n\
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

/// Who may do what. Everything below `redforge/` is closed but for handing in records; the broker's own topics (`$SYS`,
/// `$CONTROL`) are not matched by `#`; the rest is the application's, and free to all instances of the host.
///
/// A denial stands before every permission of its list, and the list of patterns is asked after a user's own: so the
/// denial is a pattern, and what a user may do below `redforge/` is their own. (The broker warns that these patterns name
/// no user; they are meant for all.)
fn acl(users: &[User]) -> String {
    let mut text = String::new();
    for User { name, reads, scales } in users {
        let _ = writeln!(text, "user {name}");
        if name == AGENT_USER {
            // Its own echo, by which it knows that the broker passes messages on.
            let _ = writeln!(text, "topic readwrite {ECHO_TOPIC}");
        } else {
            text.push_str("topic write redforge/records/+\n");
        }
        if *scales {
            let _ = writeln!(text, "topic write {SCALE_TOPIC}{name}");
        }
        for filter in reads {
            let _ = writeln!(text, "topic read {filter}");
        }
        text.push('\n');
    }
    text + "pattern deny redforge/#\npattern readwrite #\n"
}

/// Lines as mosquitto_passwd writes them: `user:$7$iterations$salt$hash`, PBKDF2 with SHA-512.
fn passwd(broker: &Name, users: &[User], secrets: &Secrets) -> String {
    let iterations = NonZeroU32::new(ITERATIONS).expect("the figure is not zero");
    let mut text = String::new();
    for User { name: user, .. } in users {
        let salt = secrets.get(&salt_name(broker, user)).expect("`secrets` names every salt");
        let mut hash = [0; 64];
        let password = password(secrets, broker, user);
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA512, iterations, salt, password.as_bytes(), &mut hash);
        let _ = writeln!(text, "{user}:$7${ITERATIONS}${}${}", BASE64.encode(salt), BASE64.encode(hash));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_written_line_by_line() {
        let user = |name: &str, reads: &[&str]| User {
            name: name.into(),
            reads: reads.iter().map(|r| (*r).to_owned()).collect(),
            scales: name == "flows",
        };
        insta::assert_snapshot!(acl(&[
            user(AGENT_USER, &["redforge/records/+"]),
            user("flows", &[]),
            user("watcher", &["$SYS/broker/clients/#"]),
        ]));
    }
}
