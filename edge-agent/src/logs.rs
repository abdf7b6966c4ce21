//! `redforge-edge logs`: what an instance prints, straight from Docker, so that neither hub nor agent is needed.
//!
//! What a container prints is a stranger's: characters that a terminal would obey are made visible.
use crate::{
    config::Config,
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

/// Time, output, text.
fn written(line: &LogLine) -> String {
    let at = OffsetDateTime::from_unix_timestamp_nanos(line.at_ns.into()).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    let mut text = format!("{} {} ", at.format(format).unwrap_or_default(), line.stream.as_str());
    for c in String::from_utf8_lossy(&line.bytes).chars() {
        match c {
            '\t' => text.push(c),
            c if c.is_control() => {
                let _ = write!(text, "{}", c.escape_default());
            }
            c => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::LogStream;

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
}
