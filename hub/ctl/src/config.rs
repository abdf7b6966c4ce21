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
    #[arg(long, env = "REDFORGE_HUB", global = true, value_name = "URL", hide_env = true)]
    pub hub: Option<String>,
    /// The token itself; better a file, or the environment
    #[arg(long, env = "REDFORGE_TOKEN", global = true, value_name = "TOKEN", hide_env = true, hide_env_values = true)]
    pub token: Option<String>,
    /// File that holds the token
    #[arg(long, env = "REDFORGE_TOKEN_FILE", global = true, value_name = "FILE", hide_env = true)]
    pub token_file: Option<PathBuf>,
    /// Root certificate of the hub, PEM
    #[arg(long, env = "REDFORGE_CA_FILE", global = true, value_name = "FILE", hide_env = true)]
    pub ca_file: Option<PathBuf>,
    /// SHA-256 of the hub's root key: sha256:<64 hex digits>
    #[arg(
        long,
        env = "REDFORGE_CA_PIN",
        global = true,
        value_name = "PIN",
        hide_env = true,
        conflicts_with = "ca_file"
    )]
    pub ca_pin: Option<String>,
}

/// The same as a file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    hub: Option<String>,
    token: Option<String>,
    token_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
    ca_pin: Option<String>,
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
        let path = config_path();
        let file = match &path {
            Some(path) => read_file(path)?,
            None => File::default(),
        };
        let url = self.hub.clone().or(file.hub).unwrap_or_else(|| "https://127.0.0.1:3000".into());
        if !url.starts_with("https://") {
            return Err(Failure::new(Exit::Usage, format!("'{url}' is not an address of a hub"))
                .hint("it looks like https://hub.example.org:3000"));
        }
        let token = match (&self.token, &self.token_file, file.token, file.token_file) {
            (Some(t), ..) => t.clone(),
            (None, Some(f), ..) => read_token(f)?,
            (None, None, Some(t), _) => t,
            (None, None, None, Some(f)) => read_token(&f)?,
            (None, None, None, None) => {
                return Err(Failure::new(Exit::Denied, "no token is set")
                    .hint("use --token-file FILE, REDFORGE_TOKEN, or `token_file` in the configuration file")
                    .hint("`redforge-hub dev` writes one to operator.token in its state folder"));
            }
        };
        let pin = |p: String| {
            let bad = |_| Failure::new(Exit::Usage, format!("'{p}' is not a CA pin: sha256: and 64 hex digits"));
            p.parse::<CaPin>().map(Trust::Pin).map_err(bad)
        };
        let trust = match (&self.ca_pin, &self.ca_file, file.ca_pin, file.ca_file) {
            (Some(p), ..) => pin(p.clone())?,
            (None, Some(f), ..) => read_roots(f)?,
            (None, None, Some(p), _) => pin(p)?,
            (None, None, None, Some(f)) => read_roots(&f)?,
            _ => {
                return Err(Failure::new(Exit::Unreachable, "nothing says which hub to trust")
                    .hint("use --ca-file root.pem (the hub's state folder has it) or --ca-pin sha256:..."));
            }
        };
        Ok(Resolved { url: url.trim_end_matches('/').into(), token, trust })
    }
}

fn unreadable(path: &Path, what: &str, e: impl std::fmt::Display) -> Failure {
    Failure::error(format!("{what} {} cannot be read: {e}", path.display()))
}

fn read_file(path: &Path) -> Outcome<File> {
    use std::os::unix::fs::PermissionsExt as _;
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(File::default()),
        Err(e) => return Err(unreadable(path, "the configuration file", e)),
    };
    let file: File = toml::from_str(&text).map_err(|e| {
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

#[expect(clippy::disallowed_methods, reason = "this is the config room")]
fn config_path() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
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
