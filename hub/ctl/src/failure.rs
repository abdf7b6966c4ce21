//! How a command ends: the exit codes, and errors that say what, why and what next.
use crate::output;
use std::process::ExitCode;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// What every verb returns.
pub type Outcome<T = ()> = Result<T, Failure>;

/// The documented exit codes; 2 (wrong usage) is clap's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Error = 1,
    Usage = 2,
    NotFound = 3,
    Conflict = 4,
    Denied = 5,
    Timeout = 6,
    NotAsDesired = 7,
    Unreachable = 8,
}

/// A command that did not do what was asked.
#[derive(Debug)]
pub struct Failure {
    pub exit: Exit,
    /// One line each: what is wrong.
    pub errors: Vec<String>,
    /// One line each: what to do next.
    pub hints: Vec<String>,
    /// Lines to be copied to a shell as they are; made here, of checked names.
    pub example: Option<String>,
}

impl Failure {
    pub fn new(exit: Exit, error: impl Into<String>) -> Self {
        Self { exit, errors: vec![error.into()], hints: Vec::new(), example: None }
    }
    pub fn error(error: impl Into<String>) -> Self {
        Self::new(Exit::Error, error)
    }
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// The text for standard error.
    pub fn text(&self, color: bool) -> String {
        let label = |word: &str, red: bool| match (color, red) {
            (false, _) => format!("{word}:"),
            (true, true) => format!("\x1b[1;31m{word}:\x1b[0m"),
            (true, false) => format!("\x1b[1;36m{word}:\x1b[0m"),
        };
        let errors = self.errors.iter().map(|e| format!("{} {}", label("error", true), output::plain(e)));
        let hints = self.hints.iter().map(|h| format!("{} {}", label("hint", false), output::plain(h)));
        errors.chain(hints).chain(self.example.clone()).collect::<Vec<_>>().join("\n")
    }

    /// Says it and gives the exit code.
    pub fn print(&self) -> ExitCode {
        eprintln!("{}", self.text(output::color_stderr()));
        ExitCode::from(self.exit as u8)
    }
}

impl From<Status> for Failure {
    fn from(s: Status) -> Self {
        // Only what this side made of a broken connection has a cause; the hub's own words have none.
        if let Some(cause) = std::error::Error::source(&s) {
            let text = format!("the connection to the hub broke: {}", root_cause(cause));
            return Self::new(Exit::Unreachable, text).hint("is the hub running? try again in a moment");
        }
        if s.code() == Code::Unimplemented {
            return Self::error("what answers there does not know this call")
                .hint("is --hub (or REDFORGE_HUB) the operators' door, and not the agents'? its usual port is 3000")
                .hint("if it is: the hub is older than this redforgectl");
        }
        let exit = match s.code() {
            Code::NotFound => Exit::NotFound,
            Code::AlreadyExists | Code::Aborted | Code::FailedPrecondition => Exit::Conflict,
            Code::PermissionDenied | Code::Unauthenticated => Exit::Denied,
            Code::Unavailable => Exit::Unreachable,
            _ => Exit::Error,
        };
        let mut f = Self::new(exit, if s.message().is_empty() { s.code().to_string() } else { s.message().into() });
        let details = s.get_error_details();
        if let Some(bad) = details.bad_request() {
            let listed: Vec<_> =
                bad.field_violations.iter().map(|v| format!("{}: {}", v.field, v.description)).collect();
            // The summary says no more than a single violation does.
            if listed.len() == 1 && s.message().contains(&bad.field_violations[0].description) {
                return f.hints_of(&s);
            }
            // With several the summary only counts them, and repeats the first.
            if listed.len() > 1 {
                f.errors.clear();
            }
            f.errors.extend(listed);
        }
        f.hints_of(&s)
    }
}

impl Failure {
    fn hints_of(mut self, s: &Status) -> Self {
        let details = s.get_error_details();
        if let Some(help) = details.help() {
            self.hints.extend(help.links.iter().map(|l| format!("{} {}", l.description, l.url).trim().to_owned()));
        }
        if let Some(info) = details.error_info()
            && let Some(hint) = info.metadata.get("hint")
        {
            self.hints.push(hint.clone());
        }
        if s.code() == Code::Unauthenticated {
            self.hints.push("give a token with --token-file or REDFORGE_TOKEN; the hub's administrator creates one with `redforge-hub admin token create`".into());
        }
        if s.code() == Code::ResourceExhausted {
            self.hints.push("try again in a moment, or ask for less with --limit".into());
        }
        self
    }
}

/// The innermost cause: the layers above it only say that something failed.
pub fn root_cause(e: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = e;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic_types::ErrorDetails;

    #[test]
    fn statuses_become_exit_codes_and_lines() {
        let bad = ErrorDetails::with_bad_request(vec![
            tonic_types::FieldViolation::new("document 1, line 4, spec.host", "no host is named 'press'"),
            tonic_types::FieldViolation::new("document 2, line 9, spec.image", "is empty\u{1b}[31m"),
        ]);
        let cases = [
            Status::with_error_details(Code::InvalidArgument, "2 manifests cannot be applied", bad),
            Status::not_found("no host is named 'press'"),
            Status::failed_precondition("the flow set is in use"),
            Status::unauthenticated("the token is not known"),
            Status::unavailable("the hub's database is not available at the moment"),
            Status::internal(""),
        ];
        let said: Vec<String> = cases
            .into_iter()
            .map(|s| {
                let f = Failure::from(s);
                format!("exit {}\n{}", f.exit as u8, f.text(false))
            })
            .collect();
        insta::assert_snapshot!(said.join("\n\n"));
    }
}
