//! What a value must be, wherever it comes from: the hub asks these of a manifest, the agent of a document, so that a
//! hostile or careless hub gets nothing past a host that an operator could not. Each says in words what is wrong. Pure.
use std::net::IpAddr;

/// Most entries of any list or map of an instance.
pub const MAX_LIST: usize = 64;
/// Most environment variables of an instance, secrets included.
pub const MAX_ENV: usize = 256;
/// Longest value of a variable, and longest word of a command.
pub const MAX_VALUE_BYTES: usize = 32 * 1024;
/// Docker refuses less.
pub const MIN_MEMORY_BYTES: u64 = 6 << 20;
/// Less is no room for a server.
pub const MIN_CACHE_BYTES: u64 = 1 << 20;

/// What a rule says of a good value.
pub type Ruling = Result<(), String>;

/// A text as an error shows it.
pub fn shown(s: &str) -> String {
    s.chars().take(60).flat_map(char::escape_debug).collect()
}

fn is(good: bool, problem: impl FnOnce() -> String) -> Ruling {
    if good { Ok(()) } else { Err(problem()) }
}

/// An image reference, by tag or by digest: nothing that a tool could take for an option, a path or a second word.
pub fn image(reference: &str) -> Ruling {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/' | ':' | '@');
    let starts = reference.starts_with(|c: char| c.is_ascii_alphanumeric());
    let ends = reference.ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-' || c == '.');
    let parts = reference.split('/').all(|p| !p.is_empty() && p != "." && p != "..");
    let digest = reference.split_once('@').is_none_or(|(name, digest)| {
        let hex = digest.strip_prefix("sha256:").unwrap_or_default();
        !name.is_empty() && hex.len() == 64 && hex.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'))
    });
    let good = reference.len() <= 512 && starts && ends && parts && digest && reference.chars().all(plain);
    is(good, || "expected an image reference such as nodered/node-red:4.1 or name@sha256:HEX".into())
}

/// A variable that an operator may set.
pub fn env_name(name: &str) -> Ruling {
    let first = name.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    let plain = name.len() <= 128 && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    is(first && plain, || "a variable's name is letters, digits and '_', not beginning with a digit".into())?;
    is(!name.starts_with("REDFORGE_"), || "names that begin with REDFORGE_ are set by the agent".into())
}

/// A variable that the agent itself gives to every container of a kind: another value would undo what the kind promises.
pub fn env_of_kind(kind: &str, name: &str) -> Ruling {
    let instead = match (kind, name) {
        ("ollama", "OLLAMA_CONTEXT_LENGTH") => "; write spec.ollama.contextLength instead",
        ("ollama", "OLLAMA_KEEP_ALIVE") => "; write spec.ollama.keepAlive instead",
        ("ollama", "OLLAMA_NUM_PARALLEL") => "; write spec.ollama.numParallel instead",
        ("ollama", "OLLAMA_MAX_LOADED_MODELS") => "; write spec.ollama.maxLoadedModels instead",
        ("ollama", "OLLAMA_NO_CLOUD") => ": nothing that is asked leaves the host through the server",
        ("ollama", "OLLAMA_HOST") => ": the server is found under the instance's name",
        ("node-red", "FLOWS") => ": the flow file is the one that the settings name",
        ("node-red", "NODE_RED_ENABLE_SAFE_MODE" | "NODE_RED_ENABLE_PROJECTS") => "",
        _ => return Ok(()),
    };
    Err(format!("is set by the agent{instead}"))
}

/// Node.js' options for a Node-RED.
pub fn node_options(value: &str) -> Ruling {
    let heap = value.replace('_', "-").contains("--max-old-space-size");
    is(!heap, || "the heap follows resources.memory: leave --max-old-space-size out".into())
}

/// A variable's value.
pub fn env_value(value: &str) -> Ruling {
    let good = value.len() <= MAX_VALUE_BYTES && !value.contains('\0');
    is(good, || format!("the value is longer than {MAX_VALUE_BYTES} bytes or holds a zero byte"))
}

/// A word of a command.
pub fn command_word(word: &str) -> Ruling {
    let good = word.len() <= MAX_VALUE_BYTES && !word.contains('\0');
    is(good, || format!("longer than {MAX_VALUE_BYTES} bytes or with a zero byte"))
}

/// The name of a data volume.
pub fn volume_name(name: &str) -> Ruling {
    let rendered = name == "live" || name == "cfg" || name.starts_with("cfg-");
    is(!rendered, || format!("'{name}' is kept for files that the agent renders"))
}

/// Where a data volume may be seen inside. The kernel's own folders and the engine's socket are no place for data, and a
/// container that looks for an engine there must not find a folder that somebody else fills.
pub fn volume_path(path: &str) -> Ruling {
    let parts_ok = path.len() > 1 && path.split('/').skip(1).all(|p| !p.is_empty() && p != "." && p != "..");
    let plain = path.len() <= 256 && path.chars().all(|c| c.is_ascii_graphic() && !matches!(c, ':' | ',' | '\\'));
    is(path.starts_with('/') && parts_ok && plain, || {
        format!("'{}' is not an absolute path without '..', ':', ',' and spaces", shown(path))
    })?;
    let below = |folder: &str| path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let kernel = ["/proc", "/sys", "/dev"].into_iter().find(|f| below(f));
    is(kernel.is_none(), || format!("'{}' is the kernel's folder {}", shown(path), kernel.unwrap_or_default()))?;
    let socket = path.split('/').any(|p| p.ends_with(".sock")) || below("/run/docker") || below("/var/run/docker");
    is(!socket, || format!("'{}' is a place of an engine's socket, which no instance gets", shown(path)))?;
    is(!below("/redforge") && !below("/mosquitto/live") && !below("/mosquitto/config"), || {
        format!("'{}' is kept for files that the agent renders", shown(path))
    })
}

/// A port.
pub fn port(port: u16) -> Ruling {
    is(port != 0, || "must be 1 to 65535".into())
}

/// An address of the host to publish on.
pub fn publish_address(address: IpAddr) -> Ruling {
    let one = match address {
        IpAddr::V4(a) => !a.is_multicast() && !a.is_broadcast(),
        IpAddr::V6(a) => !a.is_multicast(),
    };
    is(one, || format!("{address} is no address that a host can have"))
}

/// A path that is asked of a web server.
pub fn http_path(path: &str) -> Ruling {
    let good = path.starts_with('/') && path.len() <= 512 && path.chars().all(|c| c.is_ascii_graphic());
    is(good, || "must begin with '/' and hold no spaces".into())
}

/// A topic of the application: no filter, and none of ours or the broker's own.
pub fn topic(topic: &str) -> Ruling {
    let good = !topic.is_empty() && topic.len() <= 256 && topic.chars().all(|c| c.is_ascii_graphic());
    is(good && !topic.contains(['+', '#']), || format!("'{}' is not a topic such as line/1/ping", shown(topic)))?;
    let ours = topic.starts_with('$') || topic == "redforge" || topic.starts_with("redforge/");
    is(!ours, || format!("'{}' is not a topic of the application", shown(topic)))
}

/// A short text of a probe.
pub fn probe_text(text: &str) -> Ruling {
    is(!text.is_empty() && text.len() <= 1024 && !text.contains('\0'), || "must have 1 to 1024 bytes".into())
}

/// A model's name.
pub fn model(name: &str) -> Ruling {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/' | ':');
    let good = !name.is_empty() && name.len() <= 128 && name.chars().all(plain) && !name.contains("..");
    is(good, || format!("'{}' is not a model name such as nomic-embed-text:v1.5", shown(name)))
}

/// A number between two others.
pub fn between(value: u32, least: u32, most: u32) -> Ruling {
    is((least..=most).contains(&value), || format!("must be {least} to {most}"))
}

/// A memory limit.
pub fn memory(bytes: u64) -> Ruling {
    is(bytes >= MIN_MEMORY_BYTES, || "less than 6Mi, which no container starts with".into())
}

/// A limit of processes.
pub fn pids(pids: u32) -> Ruling {
    is(pids != 0, || "0 is no limit that a process can live with; leave it out instead".into())
}

/// A restart nonce.
pub fn nonce(nonce: &str) -> Ruling {
    is(nonce.len() <= 128 && nonce.chars().all(|c| !c.is_control()), || {
        "longer than 128 bytes, or with control characters".into()
    })
}
