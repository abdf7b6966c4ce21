//! From where an image comes that neither the host nor the hub has: the mirrors of its registry in order, then the registry
//! itself, each with what the host is to it.
//!
//! A mirror only saves the way: whoever mirrors a registry is trusted like it. What comes bears the name that the operator
//! wrote, and no other. Passwords are read when they are needed, and are in no report and no log.
use super::{bring::Shelf, jobs::JobError, memory, preflight};
use crate::runtime::{ImageSeen, Runtime, RuntimeError, login::Login, meter::Meter};
use redforge_shared::{error::Chain, ids::Name};
use std::{collections::BTreeMap, path::PathBuf, time::Duration};

/// How long a registry may take to say for which machines it has an image.
const ASKING: Duration = Duration::from_secs(15);
/// Longest password in bytes.
const MAX_PASSWORD: u64 = 4096;
/// The registry of references that name none.
const DEFAULT: &str = "docker.io";

/// What the settings say, by registry.
pub type Registries = BTreeMap<String, Registry>;

/// One registry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registry {
    /// `HOST[:PORT][/PATH]`, in the order in which they are asked.
    pub mirrors: Vec<String>,
    pub account: Option<Account>,
}

/// Who the host is to a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub username: String,
    pub password: Password,
}

/// Where a password lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Password {
    File(PathBuf),
    /// Given at the site.
    Secret(Name),
}

/// As settings are shown: without a password, which they do not hold anyway.
pub fn shown(registries: &Registries) -> serde_json::Value {
    let one = |(host, r): (&String, &Registry)| {
        let mut table = serde_json::Map::new();
        if !r.mirrors.is_empty() {
            table.insert("mirrors".into(), r.mirrors.clone().into());
        }
        if let Some(a) = &r.account {
            table.insert("username".into(), a.username.clone().into());
            match &a.password {
                Password::File(path) => table.insert("password_file".into(), path.display().to_string().into()),
                Password::Secret(name) => table.insert("password_secret".into(), name.to_string().into()),
            };
        }
        (host.clone(), serde_json::Value::Object(table))
    };
    registries.iter().map(one).collect::<serde_json::Map<_, _>>().into()
}

/// A reference as its registry and the path there, tag or digest included.
fn split(reference: &str) -> (&str, String) {
    match reference.split_once('/') {
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => {
            let official = host == DEFAULT && !path.contains('/');
            (host, if official { format!("library/{path}") } else { path.to_owned() })
        }
        Some(_) => (DEFAULT, reference.to_owned()),
        None => (DEFAULT, format!("library/{reference}")),
    }
}

/// The references to ask for, with the registry that each is asked from.
fn sources(reference: &str, registries: &Registries) -> Vec<(String, String)> {
    let (host, path) = split(reference);
    let mirrors = registries.get(host).map(|r| r.mirrors.as_slice()).unwrap_or_default();
    let of_mirror = |m: &String| {
        let mirror = m.split('/').next().unwrap_or_default().to_owned();
        (format!("{m}/{path}"), mirror)
    };
    mirrors.iter().map(of_mirror).chain([(reference.to_owned(), host.to_owned())]).collect()
}

/// What the host is to this registry.
async fn login(shelf: &Shelf, registry: &str) -> Result<Option<Login>, JobError> {
    let Some(account) = shelf.registries.get(registry).and_then(|r| r.account.as_ref()) else { return Ok(None) };
    let password = match &account.password {
        Password::File(path) => {
            let unreadable = |source| JobError::PasswordFile { registry: registry.to_owned(), source };
            let bytes = tokio::fs::metadata(path).await.map_err(unreadable)?.len();
            if bytes > MAX_PASSWORD {
                return Err(unreadable(std::io::Error::other(format!("it has more than {MAX_PASSWORD} bytes"))));
            }
            let text = tokio::fs::read_to_string(path).await.map_err(unreadable)?;
            text.lines().next().unwrap_or_default().to_owned()
        }
        Password::Secret(name) => {
            let given = memory::given(&shelf.ledger).await.map_err(|e| JobError::Given(Box::new(e)))?;
            given.get(name).map(|(_, value)| value.clone()).ok_or_else(|| JobError::NoSecret(name.clone()))?
        }
    };
    Ok(Some(Login { registry: registry.to_owned(), username: account.username.clone(), password }))
}

/// The image; the first source that has it gives it.
pub async fn fetch(
    runtime: &dyn Runtime,
    shelf: &Shelf,
    reference: &str,
    meter: &Meter,
) -> Result<ImageSeen, JobError> {
    if let Some(found) = runtime.find_image(reference).await.map_err(JobError::Image)? {
        return Ok(found);
    }
    let mut worst: Option<JobError> = None;
    for (source, registry) in sources(reference, &shelf.registries) {
        let came = match login(shelf, &registry).await {
            Ok(login) => from(runtime, &source, login.as_ref(), meter).await,
            Err(e) => Err(e),
        };
        let e = match came {
            Ok(image) => return named(runtime, image, &source, reference).await,
            Err(e) => e,
        };
        // Another source would meet the same.
        if matches!(e, JobError::Image(RuntimeError::DiskFull { .. } | RuntimeError::Unreachable(_))) {
            return Err(e);
        }
        if source != reference {
            tracing::info!(image.reference = source, error = %Chain(&e), "not from this mirror, the next is asked");
        }
        // A door that stays shut says more than a house where nobody is.
        let keep = |old: &JobError| old.is_denied() && !e.is_denied();
        if worst.as_ref().is_none_or(|old| !keep(old)) {
            worst = Some(e);
        }
    }
    Err(worst.unwrap_or(JobError::Waiting))
}

/// One that its registry has for other machines only is not fetched; a registry that does not say so is not waited for.
async fn from(
    runtime: &dyn Runtime,
    source: &str,
    login: Option<&Login>,
    meter: &Meter,
) -> Result<ImageSeen, JobError> {
    let asked = tokio::time::timeout(ASKING, runtime.architectures(source, login)).await;
    if let (Ok(Ok(offered)), Ok(machine)) = (asked, runtime.survey().await)
        && let Some(wrong) = preflight::for_others(&offered, &machine.architecture)
    {
        return Err(JobError::Architecture(wrong));
    }
    runtime.resolve_image(source, login, meter).await.map_err(JobError::Image)
}

/// What came from a mirror gets the name that the operator wrote in place of the mirror's.
async fn named(runtime: &dyn Runtime, image: ImageSeen, source: &str, reference: &str) -> Result<ImageSeen, JobError> {
    // One that is named by its content can have no other name.
    if source != reference && !reference.contains('@') {
        runtime.tag_image(&image.id, reference).await.map_err(JobError::Image)?;
        // The mirror's name alone goes. If it cannot, it is only a name more.
        if let Err(e) = runtime.remove_image(&image.id, source).await {
            tracing::info!(image.reference = source, error = %Chain(&e), "the mirror's name stays");
        }
    }
    Ok(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_come_first_in_their_order_and_paths_are_those_of_the_registry() {
        let mirrors = vec!["m.example:5000/hub".to_owned(), "n.example".to_owned()];
        let registries = Registries::from([("docker.io".to_owned(), Registry { mirrors, ..Registry::default() })]);
        let asked = |reference: &str| -> Vec<String> {
            sources(reference, &registries).into_iter().map(|(r, from)| format!("{r} at {from}")).collect()
        };
        for official in ["redis:7", "docker.io/redis:7", "docker.io/library/redis:7", "library/redis:7"] {
            let all = [
                "m.example:5000/hub/library/redis:7 at m.example:5000".to_owned(),
                "n.example/library/redis:7 at n.example".to_owned(),
                format!("{official} at docker.io"),
            ];
            assert_eq!(asked(official), all, "{official}");
        }
        assert_eq!(asked("ollama/ollama@sha256:00")[1], "n.example/ollama/ollama@sha256:00 at n.example");
        assert_eq!(asked("quay.example/a/b:1"), ["quay.example/a/b:1 at quay.example"]);
        assert_eq!(asked("localhost/a"), ["localhost/a at localhost"]);
    }
}
