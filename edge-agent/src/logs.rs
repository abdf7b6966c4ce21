//! `redforge-edge logs`: what an instance prints, straight from Docker, so that neither hub nor agent is needed; and what
//! it printed last when it failed, out of the ledger, for that container may be gone.
//!
//! What a container prints is a stranger's: characters that a terminal would obey are made visible.
use crate::{
    config::Config,
    db::ledger::{FailedLog, Ledger},
    identity::IdentityDir,
    runtime::{ContainerSeen, LogLine, Runtime as _, docker::Docker, names::Names},
};
use anyhow::{Context, bail};
use futures_util::{StreamExt as _, stream};
use redforge_shared::ids::Name;
use std::{fmt::Write as _, io::Write};
use time::{OffsetDateTime, macros::format_description};

/// Writes the last lines of every container of the instance, and with `follow` what comes.
pub async fn show(
    config: &Config,
    instance: &Name,
    follow: bool,
    tail: u32,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let enrolled = IdentityDir::open(&config.state_dir)?.enrolled()?;
    let enrolled = enrolled.context("this host is not enrolled, so it has no instances")?;
    let docker = Docker::new(&config.runtime.docker_socket);
    let seen = docker.observe(&Names::new(enrolled.host_id)).await;
    let seen = seen.context("Docker does not answer: redforge-edge doctor says more")?;
    let own: Vec<&ContainerSeen> = seen.containers.iter().filter(|c| c.instance == *instance).collect();
    if own.is_empty() {
        let mut others: Vec<&str> = seen.containers.iter().map(|c| c.instance.as_str()).collect();
        others.dedup();
        let others = if others.is_empty() { "there is no container at all".into() } else { others.join(", ") };
        bail!("instance '{instance}' has no container on this host (those that have: {others}); redforge-edge status");
    }
    let several = own.len() > 1;
    let logs = own.iter().map(|c| {
        let source = if several { format!("{} ", c.replica) } else { String::new() };
        docker.last_lines(&c.id, tail, follow).map(move |line| (source.clone(), line)).boxed()
    });
    let mut lines = stream::select_all(logs);
    while let Some((source, line)) = lines.next().await {
        let line = line.context("the log broke off")?;
        // Whoever read it has gone: that is no failure.
        if writeln!(out, "{source}{}", written(&line)).is_err() {
            break;
        }
    }
    Ok(())
}

/// Writes what the instance printed last when it failed last: when, how and what that was, then the lines.
pub async fn show_failed(config: &Config, instance: &Name, tail: u32, out: &mut impl Write) -> anyhow::Result<()> {
    let path = config.state_dir.join("ledger.db");
    if !path.exists() {
        bail!("this host has not run an agent yet, so nothing has failed on it");
    }
    let ledger = Ledger::open(&path).await.context("the ledger cannot be read")?;
    let Some(log) = ledger.failed_log(instance).await? else {
        let others: Vec<String> = ledger.failed_at().await?.iter().map(|(n, _)| n.to_string()).collect();
        let others = if others.is_empty() { "there are none at all".into() } else { others.join(", ") };
        bail!(
            "nothing is kept of a failure of '{instance}' (of these something is: {others}); redforge-edge logs \
             {instance} has what it prints now"
        );
    };
    // Whoever read it has gone: that is no failure.
    drop(out.write_all(failed(instance, &log, tail).as_bytes()));
    Ok(())
}

/// The head's lines begin with a mark, so that a tool can leave them out.
fn failed(instance: &Name, log: &FailedLog, tail: u32) -> String {
    let code = log.exit_code.map_or(String::new(), |c| format!(", exit code {c}"));
    let at =
        log.at.format(format_description!("[year]-[month]-[day] [hour]:[minute]:[second] UTC")).unwrap_or_default();
    let mut text = format!("# {instance} failed at {at}: {}{code}\n# image ", log.reason);
    visible(&log.image, &mut text);
    if let Some(container) = &log.container {
        let _ = write!(text, ", container {}", container.chars().take(12).collect::<String>());
    }
    if let Some(detail) = &log.detail {
        text.push_str("\n# the engine said: ");
        visible(detail, &mut text);
    }
    let skipped = log.lines.len().saturating_sub(tail as usize);
    text.push_str(match (log.lines.is_empty(), skipped) {
        (true, _) => "\n# it printed nothing\n",
        (false, 0) => "\n# it printed last\n",
        (false, _) => "\n# it printed last (more with --tail)\n",
    });
    for line in &log.lines[skipped..] {
        text.push_str(&row(line.at_ns, &line.stream, &line.text));
        text.push('\n');
    }
    text
}

/// Time, output, text.
fn written(line: &LogLine) -> String {
    row(line.at_ns, line.stream.as_str(), &String::from_utf8_lossy(&line.bytes))
}

fn row(at_ns: i64, stream: &str, text: &str) -> String {
    let at = OffsetDateTime::from_unix_timestamp_nanos(at_ns.into()).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    let mut row = format!("{} {stream} ", at.format(format).unwrap_or_default());
    visible(text, &mut row);
    row
}

/// What a terminal would obey is written out.
fn visible(raw: &str, text: &mut String) {
    for c in raw.chars() {
        match c {
            '\t' => text.push(c),
            c if c.is_control() => {
                let _ = write!(text, "{}", c.escape_default());
            }
            c => text.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{db::ledger::FailedLine, runtime::LogStream};
    use redforge_shared::report::Reason;

    #[test]
    fn a_terminal_obeys_nothing_that_a_container_prints() {
        let line = LogLine {
            at_ns: 1_763_892_000_007_000_000,
            stream: LogStream::Stderr,
            bytes: bytes::Bytes::from_static(b"\x1b]0;title\x07 \tok \xff\x9b31m"),
            partial: false,
        };
        let text = written(&line);
        assert!(text.starts_with("2025-11-23T10:00:00.007Z stderr \\u{1b}]0;title\\u{7} \tok "), "{text}");
        assert!(!text.contains('\x1b') && !text.contains('\u{9b}'), "{text}");
    }

    #[test]
    fn what_failed_is_told_with_when_and_how_and_obeyed_by_nobody() {
        let line = |n: i64, text: &str| FailedLine { at_ns: n * 1_000_000, stream: "stderr".into(), text: text.into() };
        let log = FailedLog {
            at: time::macros::datetime!(2026-11-24 02:00:13 UTC),
            reason: Reason::ContainerExited,
            exit_code: Some(3),
            detail: None,
            image: "press:2\u{9b}31m".into(),
            container: Some("0123456789abcdef".into()),
            lines: vec![line(1, "no table\u{1b}[2J"), line(2, "bye")],
        };
        let name = "press".parse().expect("a name");
        let refused = FailedLog {
            reason: Reason::StartRefused,
            exit_code: None,
            detail: Some("exec: \"no\": not found".into()),
            container: None,
            lines: vec![],
            ..log.clone()
        };
        insta::assert_snapshot!(
            [failed(&name, &log, 200), failed(&name, &log, 1), failed(&name, &refused, 1)].join("\n")
        );
    }
}
