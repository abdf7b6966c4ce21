//! Who may enroll: the token, the identity key and what is known of both, decided without touching anything.
use redforge_shared::ids::{Digest, HostId, Name};
use time::OffsetDateTime;
use uuid::Uuid;

/// The token of the request.
#[derive(Clone, Debug)]
pub struct Token {
    pub site_id: Uuid,
    pub host_name: Option<String>,
    pub uses: u32,
    pub used: u32,
    pub expires_at: OffsetDateTime,
}

/// The host that has the request's identity key.
#[derive(Clone, Debug)]
pub struct Known {
    pub id: HostId,
    pub name: String,
    pub site_id: Uuid,
    pub fenced: bool,
    /// The TLS key with which this very token was used for it.
    pub used_with: Option<Digest>,
}

/// What the host asks for.
#[derive(Clone, Debug)]
pub struct Request {
    pub csr_key: Digest,
    /// The name it asks for; none = derive one.
    pub name: Option<Name>,
    pub hostname: String,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The same request again: give the same answer.
    Repeat(HostId),
    /// A known host with a token that was made for it by name: a new certificate.
    Again(HostId),
    /// A new host under the first of these names that is free. Empty tail: this name or none.
    New(Vec<String>),
}

/// Why not. The texts are read by the person at the machine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("this enrollment token is not known to the hub: copy the whole command again")]
    UnknownToken,
    #[error("this enrollment token expired at {0}: create a new one with `redforgectl token create`")]
    Expired(String),
    #[error("this enrollment token is used up: it was good for {0} host(s) and another host has it")]
    UsedUp(u32),
    #[error("this host enrolled with this token before, with another TLS key: repeat the first request unchanged")]
    OtherKey,
    #[error("this host is already enrolled as '{0}': to enroll it again create a token for that name")]
    AlreadyEnrolled(String),
    #[error("this host is fenced: an operator must decide first and say `redforgectl resume HOST`")]
    Fenced,
    #[error("this enrollment token is only good for the host name '{0}'")]
    OtherName(String),
    #[error("the host name '{0}' is taken")]
    NameTaken(String),
}

/// Names tried when the host did not ask for one.
const DERIVED_NAMES: usize = 50;

/// Decides whether and as whom the host comes in.
pub fn decide(
    token: Option<&Token>,
    known: Option<&Known>,
    request: &Request,
    now: OffsetDateTime,
) -> Result<Decision, Refusal> {
    let token = token.ok_or(Refusal::UnknownToken)?;
    if let Some(host) = known {
        if host.fenced {
            return Err(Refusal::Fenced);
        }
        match host.used_with {
            // A lost reply can be repeated even when the token has ended since.
            Some(key) if key == request.csr_key => return Ok(Decision::Repeat(host.id)),
            Some(_) => return Err(Refusal::OtherKey),
            None => {}
        }
    }
    if token.expires_at <= now {
        return Err(Refusal::Expired(instant(token.expires_at)));
    }
    if token.used >= token.uses {
        return Err(Refusal::UsedUp(token.uses));
    }
    if let Some(host) = known {
        let meant = token.host_name.as_deref() == Some(host.name.as_str()) && token.site_id == host.site_id;
        return if meant { Ok(Decision::Again(host.id)) } else { Err(Refusal::AlreadyEnrolled(host.name.clone())) };
    }
    match (&token.host_name, &request.name) {
        (Some(only), Some(asked)) if only != asked.as_str() => Err(Refusal::OtherName(only.clone())),
        (Some(only), _) => Ok(Decision::New(vec![only.clone()])),
        (None, Some(asked)) => Ok(Decision::New(vec![asked.to_string()])),
        (None, None) => Ok(Decision::New(derived(&request.hostname))),
    }
}

/// The first of the names that is free.
pub fn free_name(names: &[String], taken: &[String]) -> Result<String, Refusal> {
    let free = names.iter().find(|n| !taken.contains(n));
    free.cloned().ok_or_else(|| Refusal::NameTaken(names.first().cloned().unwrap_or_default()))
}

/// `press-4.plant.example` becomes `press-4`, then `press-4-2`, ...
fn derived(hostname: &str) -> Vec<String> {
    let first = hostname.split('.').next().unwrap_or_default().to_lowercase();
    let mut base: String = first.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(50).collect();
    base = base.trim_matches('-').to_owned();
    if base.parse::<Name>().is_err() {
        base = "host".into();
    }
    let numbered = (2..=DERIVED_NAMES).map(|n| format!("{base}-{n}"));
    std::iter::once(base.clone()).chain(numbered).collect()
}

fn instant(at: OffsetDateTime) -> String {
    at.format(&time::format_description::well_known::Rfc3339).unwrap_or_else(|_| at.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    fn token() -> Token {
        let expires_at = NOW + time::Duration::HOUR;
        Token { site_id: Uuid::nil(), host_name: None, uses: 1, used: 0, expires_at }
    }
    fn request() -> Request {
        Request { csr_key: Digest::of(b"key"), name: None, hostname: "Press_4.plant.example".into() }
    }
    fn known() -> Known {
        Known { id: HostId(Uuid::nil()), name: "press-4".into(), site_id: Uuid::nil(), fenced: false, used_with: None }
    }

    #[test]
    fn a_token_is_good_for_one_identity_key_and_its_repeats() {
        let Ok(Decision::New(names)) = decide(Some(&token()), None, &request(), NOW) else { panic!("new") };
        assert_eq!(names[..2], ["press-4".to_owned(), "press-4-2".to_owned()]);
        let used = Token { used: 1, ..token() };
        let repeat = Known { used_with: Some(Digest::of(b"key")), ..known() };
        assert_eq!(decide(Some(&used), Some(&repeat), &request(), NOW), Ok(Decision::Repeat(repeat.id)));
        assert_eq!(decide(Some(&used), None, &request(), NOW), Err(Refusal::UsedUp(1)));
        let other = Known { used_with: Some(Digest::of(b"other")), ..known() };
        assert_eq!(decide(Some(&used), Some(&other), &request(), NOW), Err(Refusal::OtherKey));
    }

    #[test]
    fn expired_unknown_and_fenced_are_refused_and_a_repeat_outlives_the_token() {
        let late = NOW + time::Duration::HOUR;
        assert!(matches!(decide(Some(&token()), None, &request(), late), Err(Refusal::Expired(_))));
        assert_eq!(decide(None, None, &request(), NOW), Err(Refusal::UnknownToken));
        let repeat = Known { used_with: Some(Digest::of(b"key")), ..known() };
        assert_eq!(decide(Some(&token()), Some(&repeat), &request(), late), Ok(Decision::Repeat(repeat.id)));
        let fenced = Known { fenced: true, ..repeat };
        assert_eq!(decide(Some(&token()), Some(&fenced), &request(), NOW), Err(Refusal::Fenced));
    }

    #[test]
    fn a_known_host_comes_in_again_only_with_a_token_made_for_its_name() {
        assert_eq!(
            decide(Some(&token()), Some(&known()), &request(), NOW),
            Err(Refusal::AlreadyEnrolled("press-4".into()))
        );
        let meant = Token { host_name: Some("press-4".into()), ..token() };
        assert_eq!(decide(Some(&meant), Some(&known()), &request(), NOW), Ok(Decision::Again(known().id)));
        let elsewhere = Token { site_id: Uuid::max(), ..meant };
        assert!(decide(Some(&elsewhere), Some(&known()), &request(), NOW).is_err());
    }

    #[test]
    fn names_that_were_asked_for_are_taken_or_refused_never_changed() {
        let asked = Request { name: Some("oven".parse().expect("name")), ..request() };
        assert_eq!(decide(Some(&token()), None, &asked, NOW), Ok(Decision::New(vec!["oven".into()])));
        assert_eq!(free_name(&["oven".into()], &["oven".into()]), Err(Refusal::NameTaken("oven".into())));
        let bound = Token { host_name: Some("press-9".into()), ..token() };
        assert_eq!(decide(Some(&bound), None, &asked, NOW), Err(Refusal::OtherName("press-9".into())));
        assert_eq!(derived("__")[0], "host");
    }
}
