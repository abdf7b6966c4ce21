//! Which hub, which token, which trust: flags, then the environment, then the file. The one reader of the environment.
use crate::failure::{Exit, Failure, Outcome};
use clap::Args;
use redforge_shared::tls::{CaPin, Trust};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Where the hub is and how to be let in.
#[derive(Clone, Debug, Default, Args)]
pub struct Connection {
    /// Address of the hub's operators' door, https://host:port
    #[arg(long, global = true, value_name = "URL")]
    pub hub: Option<String>,
    /// The token itself; better a file, or the environment
    #[arg(long, global = true, value_name = "TOKEN")]
    pub token: Option<String>,
    /// File that holds the token
    #[arg(long, global = true, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Root certificate of the hub, PEM
    #[arg(long, global = true, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// SHA-256 of the hub's root key: sha256:<64 hex digits>
    #[arg(long, global = true, value_name = "PIN", conflicts_with = "ca_file")]
    pub ca_pin: Option<String>,
}

/// The same from one source: the flags, the environment or the file. A source that says how to be let in, or whom to
/// trust, says it whole: what a later source says of it does not count.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Layer {
    hub: Option<String>,
    token: Option<String>,
    token_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
    ca_pin: Option<String>,
}

impl Layer {
    fn token(&self) -> Option<Outcome<String>> {
        self.token.clone().map(Ok).or_else(|| self.token_file.as_deref().map(read_token))
    }

    fn trust(&self) -> Option<Outcome<Trust>> {
        let pin = |p: &String| {
            let bad = |_| Failure::new(Exit::Usage, format!("'{p}' is not a CA pin: sha256: and 64 hex digits"));
            p.parse::<CaPin>().map(Trust::Pin).map_err(bad)
        };
        self.ca_pin.as_ref().map(pin).or_else(|| self.ca_file.as_deref().map(read_roots))
    }
}

/// Everything a connection needs.
#[derive(Debug)]
pub struct Resolved {
    pub url: String,
    pub token: String,
    pub trust: Trust,
}

impl Connection {
    /// Puts flags, environment and file together.
    pub fn resolve(&self) -> Outcome<Resolved> {
        let file = config_path().map_or_else(|| Ok(Layer::default()), |path| read_file(&path))?;
        let layers = [self.layer(), environment(), file];
        let url = layers.iter().find_map(|l| l.hub.clone()).unwrap_or_else(|| "https://127.0.0.1:3000".into());
        if !url.starts_with("https://") {
            return Err(Failure::new(Exit::Usage, format!("'{url}' is not an address of a hub"))
                .hint("it looks like https://hub.example.org:3000"));
        }
        let token = layers.iter().find_map(Layer::token).unwrap_or_else(|| {
            Err(Failure::new(Exit::Denied, "no token is set")
                .hint("use --token-file FILE, REDFORGE_TOKEN, or `token_file` in the configuration file")
                .hint("`redforge-hub dev` prints a line that sets all three: `tools export ...`"))
        })?;
        let trust = layers.iter().find_map(Layer::trust).unwrap_or_else(|| {
            Err(Failure::new(Exit::Unreachable, "nothing says which hub to trust")
                .hint("use --ca-file root.pem (the hub's state folder has it) or --ca-pin sha256:..."))
        })?;
        Ok(Resolved { url: url.trim_end_matches('/').into(), token, trust })
    }

    fn layer(&self) -> Layer {
        let c = self.clone();
        Layer { hub: c.hub, token: c.token, token_file: c.token_file, ca_file: c.ca_file, ca_pin: c.ca_pin }
    }
}

fn unreadable(path: &Path, what: &str, e: impl std::fmt::Display) -> Failure {
    Failure::error(format!("{what} {} cannot be read: {e}", path.display()))
}

fn read_file(path: &Path) -> Outcome<Layer> {
    use std::os::unix::fs::PermissionsExt as _;
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Layer::default()),
        Err(e) => return Err(unreadable(path, "the configuration file", e)),
    };
    let file: Layer = toml::from_str(&text).map_err(|e| {
        let line = e.span().map_or(0, |s| text[..s.start].matches('\n').count() + 1);
        Failure::error(format!("{}:{line}: {}", path.display(), e.message()))
    })?;
    let mode = std::fs::metadata(path).map_or(0, |m| m.permissions().mode());
    if file.token.is_some() && mode & 0o077 != 0 {
        return Err(Failure::new(Exit::Denied, format!("{} holds a token and others can read it", path.display()))
            .hint(format!("chmod 600 {}", path.display())));
    }
    Ok(file)
}

fn read_token(path: &Path) -> Outcome<String> {
    let text = std::fs::read_to_string(path).map_err(|e| unreadable(path, "the token file", e))?;
    Ok(text.trim().to_owned())
}

fn read_roots(path: &Path) -> Outcome<Trust> {
    let bad = |e: &dyn std::fmt::Display| unreadable(path, "the root certificate", e);
    let bytes = std::fs::read(path).map_err(|e| bad(&e))?;
    let roots: Vec<_> =
        CertificateDer::pem_slice_iter(&bytes).collect::<Result<_, _>>().map_err(|e| bad(&format!("{e:?}")))?;
    if roots.is_empty() {
        return Err(bad(&"it holds no certificate"));
    }
    Ok(Trust::Roots(roots))
}

/// A variable that is there and not empty.
#[expect(clippy::disallowed_methods, reason = "this is the config room")]
fn variable(name: &str) -> Option<std::ffi::OsString> {
    std::env::var_os(name).filter(|v| !v.is_empty())
}

/// What the environment says. clap is not asked: it would take a variable for a flag and find it in conflict with one.
fn environment() -> Layer {
    let text = |name| variable(name).map(|v| v.to_string_lossy().into_owned());
    Layer {
        hub: text("REDFORGE_HUB"),
        token: text("REDFORGE_TOKEN"),
        token_file: variable("REDFORGE_TOKEN_FILE").map(PathBuf::from),
        ca_file: variable("REDFORGE_CA_FILE").map(PathBuf::from),
        ca_pin: text("REDFORGE_CA_PIN"),
    }
}

fn config_path() -> Option<PathBuf> {
    let set = |name: &str| variable(name).map(PathBuf::from);
    if let Some(path) = set("REDFORGE_CONFIG") {
        return Some(path);
    }
    let folder = set("XDG_CONFIG_HOME").or_else(|| Some(set("HOME")?.join(".config")))?;
    Some(folder.join("redforge/config.toml"))
}

/// Did the user ask for no colour? (no-color.org)
#[expect(clippy::disallowed_methods, reason = "this is the config room")]
pub fn no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty()) || std::env::var_os("TERM").is_some_and(|t| t == "dumb")
}
