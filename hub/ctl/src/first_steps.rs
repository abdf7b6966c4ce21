//! What a host without Node-RED needs before a flow set can run on it, as lines that can be copied to a shell.
//!
//! Asks the hub what the host has; decides nothing about what is applied.
use crate::{
    cli::Push,
    connection::Admin,
    failure::{Exit, Failure, Outcome},
    get,
    manifest_files::Packed,
};
use redforge_shared::{ids::Name, manifest::Kind};
use std::path::Path;

/// Images for a host that reaches a registry.
const NODE_RED: &str = "nodered/node-red:4.1";
const MOSQUITTO: &str = "eclipse-mosquitto:2.0";

/// The refusal to push to a host that has no instance of this name, with all that helps.
pub async fn no_instance(admin: &mut Admin, host: &Name, packed: &Packed, a: &Push) -> Outcome<Failure> {
    let there = get::instances(admin, &format!("hosts/{host}")).await?;
    let uses_mqtt = packed.node_types.iter().any(|t| t == "mqtt-broker");
    let with_broker = uses_mqtt && !there.iter().any(|i| i.kind == Kind::Mosquitto.as_str());
    let name = &packed.name;
    let text = format!("host '{host}' has no instance '{name}', and no other node-red instance says which image");
    let mut failure = Failure::new(Exit::NotFound, text);
    if with_broker {
        failure.errors.push(format!("host '{host}' has no mosquitto instance either, and the flows use MQTT"));
    }
    let what = if with_broker { "a Node-RED and a broker" } else { "a Node-RED" };
    failure = failure
        .hint(format!("this gives the host {what}, and pushes the flows; `--image REFERENCE` alone adds the Node-RED"))
        .hint("without a registry write the images that `packaging/images/build.sh node-red mosquitto` names");
    failure.example = Some(format!(
        "\nredforgectl apply --wait -f - <<'END'\n{}END\n{}",
        manifests(host, name, with_broker),
        push_again(a)
    ));
    Ok(failure)
}

fn manifests(host: &Name, name: &Name, with_broker: bool) -> String {
    let instance = |name: &str, kind: Kind, image: &str| {
        format!(
            "apiVersion: redforge.io/v1\nkind: Instance\nmetadata: {{name: {name}}}\n\
             spec: {{host: {host}, kind: {}, image: '{image}'}}\n",
            kind.as_str()
        )
    };
    let mut text = instance(name.as_str(), Kind::NodeRed, NODE_RED);
    if with_broker {
        // Two instances of one host never share a name.
        let broker = if name.as_str() == "broker" { "mosquitto" } else { "broker" };
        text += "---\n";
        text += &instance(broker, Kind::Mosquitto, MOSQUITTO);
    }
    text
}

fn push_again(a: &Push) -> String {
    let to = a.to.iter().map(|h| format!(" --to {}", quoted(Path::new(h)))).collect::<Vec<_>>().concat();
    let from = a.modules.iter().map(|m| format!(" --modules {}", quoted(m))).collect::<Vec<_>>().concat();
    let from = if a.no_modules { " --no-modules".into() } else { from };
    format!("redforgectl flowset push {} {}{from}{to} --wait", a.name, quoted(&a.file))
}

/// A path as one word of a shell; what would move the terminal is not repeated.
fn quoted(path: &Path) -> String {
    let text = crate::output::plain(&path.display().to_string());
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use redforge_shared::manifest::{Manifest, parse};

    #[test]
    fn the_manifests_can_be_applied_as_they_are() {
        let name = |n: &str| n.parse::<Name>().expect("a name");
        for (flow_set, with_broker, instances) in [("first", false, 1), ("first", true, 2), ("broker", true, 2)] {
            let read = parse(&manifests(&name("edge-1"), &name(flow_set), with_broker)).expect("manifests");
            let mut names: Vec<String> = read.iter().map(Manifest::resource_name).collect();
            names.sort();
            names.dedup();
            assert_eq!(names.len(), instances, "{names:?}");
        }
    }

    #[test]
    fn the_command_is_one_line_of_a_shell() {
        let push = Push {
            name: "first".into(),
            file: "ann's flows.json".into(),
            modules: vec!["nodes".into()],
            no_modules: false,
            to: vec!["edge-1".into(), "edge-2".into()],
            image: None,
            wait: crate::cli::Wait { wait: false, trusted: false, timeout: std::time::Duration::ZERO },
        };
        let expected =
            r"redforgectl flowset push first 'ann'\''s flows.json' --modules nodes --to edge-1 --to edge-2 --wait";
        assert_eq!(push_again(&push), expected);
    }
}
