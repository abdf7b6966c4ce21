//! The limit program as a child process: asks it, and takes no answer for a failure of the whole run.
use anyhow::{Context as _, bail};
use serde_json::Value;
use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Stdio},
};

/// The running limit program.
pub struct Yardstick {
    child: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Yardstick {
    /// Starts it; it does nothing until it is asked.
    pub fn start() -> anyhow::Result<Self> {
        let program = redforge_tests::place::binary("bench-limits");
        let mut child = redforge_tests::place::command(&program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("{}: the limit program does not start", program.display()))?;
        let ask = child.stdin.take().context("stdin is piped")?;
        let answers = BufReader::new(child.stdout.take().context("stdout is piped")?);
        Ok(Self { child, ask, answers })
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// One number of the answer to a question. Blocks: meanwhile nothing else shall run.
    pub fn number(&mut self, question: &Value, name: &str) -> anyhow::Result<f64> {
        self.ask(question)?[name].as_f64().with_context(|| format!("the limit program said no '{name}' to {question}"))
    }

    /// The whole answer.
    pub fn ask(&mut self, question: &Value) -> anyhow::Result<Value> {
        writeln!(self.ask, "{question}").context("the limit program has ended")?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        let answer: Value = serde_json::from_str(&line).with_context(|| format!("no limit for {question}"))?;
        if let Some(error) = answer["error"].as_str() {
            bail!("no limit for {question}: {error}");
        }
        Ok(answer)
    }
}

impl Drop for Yardstick {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
