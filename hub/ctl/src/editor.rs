//! `editor`: developer mode of a Node-RED instance is begun and ended.
//!
//! The password is drawn here and shown here. What goes to the hub, and down to the host, is its hash: nobody else ever has
//! the password, and no log, history or backup can hold it.
use crate::{
    cli::Editor,
    config::Connection,
    connection,
    failure::{Exit, Failure, Outcome},
    get, output, rollback, views, wait, words,
};
use redforge_shared::{
    clock::{Clock as _, SystemClock},
    desired::{Developer, MAX_DEVELOPER_S, user_of},
    ids::Digest,
    wire::pb,
};
use serde_json::{Value, json};

/// Where Node-RED listens, and the editor below that.
const PORT: u64 = 1880;
const PATH: &str = "/admin/";
/// Letters and digits that nobody confuses: 5 bits each.
const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
/// Groups of letters: 120 bits.
const GROUPS: usize = 4;
const GROUP: usize = 6;

/// Opens the editor and says how to get in, or closes it.
pub async fn run(settings: &Connection, a: &Editor) -> Outcome {
    let seconds = i64::try_from(a.time.as_secs()).unwrap_or(i64::MAX);
    if !(60..=MAX_DEVELOPER_S).contains(&seconds) {
        return Err(Failure::new(Exit::Usage, "an editor is open for one minute (1m) to seven days (7d)"));
    }
    let mut admin = connection::connect(settings).await?;
    let name = rollback::named(&mut admin, &a.name).await?;
    let instance = get::instance(&mut admin, &name).await?;
    if instance.kind != "node-red" {
        let text = format!("{name} is of kind {}, which has no editor; node-red has one", instance.kind);
        return Err(Failure::new(Exit::Conflict, text));
    }
    let mut manifest = views::instance_manifest(&instance);
    let host = views::instance_parts(&name).0.to_owned();
    let opened = if a.close { close(&mut manifest) } else { Some(open(&mut manifest, a, &name, &host)?) };
    let before = wait::Before::of(&mut admin, std::slice::from_ref(&name)).await?;
    let request =
        pb::ApplyRequest { manifests: output::yaml(&[manifest])?, validate_only: false, flow_sets: Vec::new() };
    let applied = admin.apply(request).await?.into_inner().resources;
    let changed = applied.iter().any(|r| r.action() != pb::applied_resource::Action::Unchanged);
    wait::until_taken_up(&mut admin, &name, &before.changed(changed), a.timeout).await?;
    match opened {
        Some(opened) => show(&opened, a),
        None => {
            let what = if changed { "the editor is closed" } else { "the editor was not open" };
            output::line(&format!("{name}: {what}"));
            output::say("flows that were edited and are not the fleet's are a draft: redforgectl flowset drafts");
            Ok(())
        }
    }
}

fn close(manifest: &mut Value) -> Option<Value> {
    if let Some(section) = manifest["spec"]["nodeRed"].as_object_mut() {
        section.remove("developer");
    }
    None
}

/// Puts developer mode into the manifest, and gives what a person needs to get in.
fn open(manifest: &mut Value, a: &Editor, name: &str, host: &str) -> Outcome<Value> {
    let spec = &mut manifest["spec"];
    let published = |spec: &Value| {
        let ports = spec["ports"].as_array()?;
        ports.iter().find(|p| p["container"] == PORT && p["protocol"] != "udp").cloned()
    };
    if let (Some(port), None) = (a.port, published(spec)) {
        let entry = json!({"container": PORT, "host": port, "address": "127.0.0.1"});
        match spec["ports"].as_array_mut() {
            Some(ports) => ports.push(entry),
            None => spec["ports"] = json!([entry]),
        }
        output::say(&format!("{name} is made anew, with port {port} of the host"));
    }
    let Some(port) = published(spec) else {
        let text = format!("{name} publishes no port, so nobody reaches its editor");
        return Err(Failure::new(Exit::Conflict, text)
            .hint(
                "--port PORT publishes it on 127.0.0.1 of the host; that makes a new container, so counters begin anew",
            )
            .hint(format!("or write `ports: [{{container: {PORT}, host: PORT}}]` into the manifest")));
    };
    let address = port["address"].as_str().unwrap_or("127.0.0.1");
    let at = match address {
        "0.0.0.0" | "::" => host.to_owned(),
        v6 if v6.contains(':') => format!("[{v6}]"),
        other => other.to_owned(),
    };
    let url = format!("http://{at}:{}{PATH}", port["host"]);
    let password = draw()?;
    let hash = Digest::of(password.as_bytes());
    let until = SystemClock.now() + a.time;
    let until = until.replace_nanosecond(0).unwrap_or(until);
    let developer = Developer { until, password_sha256: Some(hash) };
    let developer = serde_json::to_value(developer).map_err(|e| Failure::error(e.to_string()))?;
    let until = developer["until"].clone();
    if !spec["nodeRed"].is_object() {
        spec["nodeRed"] = json!({});
    }
    spec["nodeRed"]["developer"] = developer;
    Ok(json!({"instance": name, "url": url, "user": user_of(hash), "password": password, "until": until}))
}

fn show(opened: &Value, a: &Editor) -> Outcome {
    let text = |key: &str| opened[key].as_str().unwrap_or_default().to_owned();
    match a.output {
        output::Format::Json => {
            output::line(&serde_json::to_string_pretty(opened).map_err(|e| Failure::error(e.to_string()))?);
        }
        output::Format::Yaml => output::line(output::yaml(std::slice::from_ref(opened))?.trim_end()),
        output::Format::Name => output::line(&text("url")),
        output::Format::Table | output::Format::Wide => {
            for (label, key) in [("URL", "url"), ("USER", "user"), ("PASSWORD", "password"), ("UNTIL", "until")] {
                output::line(&format!("{label:<10}{}", text(key)));
            }
        }
    }
    output::say("the password opens the editor once; whoever needs it again asks for another");
    if text("url").contains("//127.") {
        let port = text("url").rsplit_once(':').map(|(_, p)| p.trim_end_matches(PATH).to_owned()).unwrap_or_default();
        let host = words::last(views::instance_parts(&text("instance")).0).to_owned();
        output::say(&format!(
            "127.0.0.1 is the host's own: from elsewhere `ssh -L {port}:127.0.0.1:{port} {host}` first"
        ));
    }
    Ok(())
}

fn draw() -> Outcome<String> {
    let mut bytes = [0; GROUPS * GROUP];
    let provider = tokio_rustls::rustls::crypto::CryptoProvider::get_default();
    let drawn = provider.and_then(|p| p.secure_random.fill(&mut bytes).ok());
    drawn.ok_or_else(|| Failure::error("the system gives no randomness"))?;
    let letter = |b: &u8| char::from(LETTERS[usize::from(b % 32)]);
    let groups: Vec<String> = bytes.chunks(GROUP).map(|g| g.iter().map(letter).collect()).collect();
    Ok(groups.join("-"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn passwords_are_long_plain_and_never_the_same() {
        redforge_shared::daemon::install_crypto();
        let drawn: BTreeSet<String> = (0..100).map(|_| draw().expect("randomness")).collect();
        assert_eq!(drawn.len(), 100);
        assert!(drawn.iter().all(|p| p.len() == GROUPS * (GROUP + 1) - 1));
        let letters: BTreeSet<u8> = LETTERS.iter().copied().collect();
        assert_eq!(letters.len(), 32, "each letter once, so that each is drawn as often as any other");
    }
}
