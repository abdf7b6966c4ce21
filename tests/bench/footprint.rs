//! P7 and P8: what a connected agent without work weighs and burns, and how soon it is connected, beside the floor: a
//! process that holds the same files and connections open and does nothing.
//!
//! The goals speak of peers. Where a peer cannot be had its figure is the one measured before on a like machine, and the
//! table says that it was not run.
use crate::{
    ground::Ground,
    pass::SOCKET,
    report::{Goal, Report, Subject},
    rounds::{Rounds, cpu_s},
};
use anyhow::{Context as _, ensure};
use redforge_tests::{
    agent::TestAgent,
    place::{binary, command},
};
use std::{
    io::{BufRead as _, BufReader, Read},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

const FLOWFUSE: &str =
    "peers not run: FlowFuse device agent 4.2.1 and tedge-agent 2.0.0, measured before on a like machine";
/// What the agent logs when the hub has welcomed it.
pub const CONNECTED: &str = "connected to the hub";
const PROFILE: &str = "agent release-small, floor release";
const START_PATIENCE: Duration = Duration::from_secs(60);

/// A process that goes with the value.
pub struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Running {
    /// Starts it and waits for these words; gives the milliseconds from exec to them. Blocks: a child dies with the thread
    /// that started it, so this must be the main one.
    pub fn start(mut command: Command, words: &'static str) -> anyhow::Result<(Self, f64)> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let begun = Instant::now();
        let mut child = command.spawn()?;
        let (said, hear) = mpsc::channel();
        let out: Box<dyn Read + Send> = Box::new(child.stdout.take().context("piped")?);
        let err: Box<dyn Read + Send> = Box::new(child.stderr.take().context("piped")?);
        for stream in [out, err] {
            let said = said.clone();
            // Reads on to the end, so that the process never waits for a reader.
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    if line.contains(words) {
                        let _ = said.send(begun.elapsed().as_secs_f64() * 1e3);
                    }
                }
            });
        }
        let running = Self(child);
        let took = hear.recv_timeout(START_PATIENCE).with_context(|| format!("nothing said '{words}'"))?;
        Ok((running, took))
    }

    /// MiB of one line of the kernel's account of its memory.
    pub fn memory(&self, of: &str) -> anyhow::Result<f64> {
        let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.0.id()))?;
        let line = rollup.lines().find_map(|l| l.strip_prefix(of)?.strip_prefix(':'));
        let kib: f64 = line.and_then(|l| l.split_whitespace().next()).context("no such line")?.parse()?;
        Ok(kib / 1024.0)
    }

    /// Bytes that it has made the kernel write to disks.
    pub fn written(&self) -> anyhow::Result<f64> {
        let io = std::fs::read_to_string(format!("/proc/{}/io", self.0.id()))?;
        let line = io.lines().find_map(|l| l.strip_prefix("write_bytes: "));
        Ok(line.context("no such line")?.parse()?)
    }

    /// Seconds of CPU it has used.
    pub fn cpu_s(&self) -> anyhow::Result<f64> {
        let used = cpu_s(self.0.id());
        ensure!(used > 0.0, "the process is gone");
        Ok(used)
    }
}

/// The agent as it ships, without a shell around it.
pub fn agent_command(agent: &TestAgent) -> Command {
    let mut c = command(&binary("redforge-edge"));
    c.args(["run", "--state"]).arg(agent.state()).arg("--run-dir").arg(agent.dir().join("er"));
    c.envs(agent.env.iter().cloned());
    c
}

fn floor_command(ground: &Ground, n: usize, hub: &str) -> anyhow::Result<Command> {
    let dir = ground.fresh(&format!("floor-{n}"))?;
    let mut c = command(&binary("bench-limits"));
    c.arg("floor").arg(dir).arg(SOCKET).arg(hub);
    Ok(c)
}

/// Measures P7 and P8.
pub async fn measure(ground: &mut Ground, report: &mut Report) -> anyhow::Result<()> {
    let hub = format!("127.0.0.1:{}", ground.hub().await.agents_port);
    let mut agents = Vec::new();
    for n in 1..=ground.rounds() {
        let mut agent = TestAgent::prepare(&format!("idle-{n}"));
        agent.enroll_at(ground.hub().await).await;
        // Once before it counts: the first start makes the files that every later one finds.
        drop(Running::start(agent_command(&agent), CONNECTED)?);
        agents.push(agent);
    }
    let starts = Rounds::take(ground, false, async |ground, n| {
        let floor = floor_command(ground, n, &hub)?;
        let (_floor, raw) = Running::start(floor, "floor ready")?;
        let agent = agent_command(&agents[n % agents.len()]);
        let (_agent, ours) = Running::start(agent, CONNECTED)?;
        Ok(vec![("floor", raw), ("agent", ours)])
    })
    .await?;
    let idle = idle(ground, &agents, &hub).await?;
    for s in subjects() {
        report.add(&s, &idle);
    }
    report.add(
        &Subject {
            id: "P8-start",
            what: "exec to connected; floor: exec to TLS handshake",
            unit: "ms",
            value: "agent",
            limit: "floor",
            goal: Goal::ValueAtMost(150.0, "0.4 x FlowFuse's first log after 359-403 ms"),
            sync_bound: false,
            profile: PROFILE,
            peer: FLOWFUSE,
        },
        &starts,
    );
    Ok(())
}

/// Agents and floors side by side, left alone.
async fn idle(ground: &mut Ground, agents: &[TestAgent], hub: &str) -> anyhow::Result<Rounds> {
    let mut pairs = Vec::new();
    for (n, agent) in agents.iter().enumerate() {
        let (floor, agent) = (floor_command(ground, n, hub)?, agent_command(agent));
        let (agent, _) = Running::start(agent, CONNECTED)?;
        let (floor, _) = Running::start(floor, "floor ready")?;
        pairs.push((agent, floor));
    }
    let (settle, window) = if ground.quick { (5, 15) } else { (10, 50) };
    tokio::time::sleep(Duration::from_secs(settle)).await;
    let before = pairs.iter().map(|(a, f)| Ok((a.cpu_s()?, f.cpu_s()?))).collect::<anyhow::Result<Vec<_>>>()?;
    tokio::time::sleep(Duration::from_secs(window)).await;
    let percent = |now: f64, then: f64| (now - then) / window as f64 * 100.0;
    Rounds::take(ground, false, async |_, n| {
        let (agent, floor) = &pairs[n % pairs.len()];
        let then = before[n % pairs.len()];
        Ok(vec![
            ("rss", agent.memory("Rss")?),
            ("floor_rss", floor.memory("Rss")?),
            ("dirty", agent.memory("Private_Dirty")?),
            ("floor_dirty", floor.memory("Private_Dirty")?),
            ("pss", agent.memory("Pss")?),
            ("cpu", percent(agent.cpu_s()?, then.0)),
            ("floor_cpu", percent(floor.cpu_s()?, then.1)),
        ])
    })
    .await
}

fn subjects() -> [Subject; 4] {
    let subject = |id, what, unit, value, limit, goal| Subject {
        id,
        what,
        unit,
        value,
        limit,
        goal,
        sync_bound: false,
        profile: PROFILE,
        peer: FLOWFUSE,
    };
    [
        subject(
            "P7",
            "idle agent, RSS; floor",
            "MiB",
            "rss",
            "floor_rss",
            Goal::ValueAtMost(14.3, "1/5 of FlowFuse's 71.7 MiB"),
        ),
        subject(
            "P7-tedge",
            "idle agent, RSS; floor",
            "MiB",
            "rss",
            "floor_rss",
            Goal::ValueAtMost(15.0, "0.7 x tedge-agent's 21.5 MiB"),
        ),
        subject(
            "P7-dirty",
            "idle agent, private dirty; floor",
            "MiB",
            "dirty",
            "floor_dirty",
            Goal::ValueAtMost(6.7, "1/10 of FlowFuse's 67.7 MiB"),
        ),
        subject(
            "P8",
            "idle agent, CPU of a core; floor",
            "%",
            "cpu",
            "floor_cpu",
            Goal::ValueAtMost(0.2, "and tedge-agent's 0.25 %"),
        ),
    ]
}
