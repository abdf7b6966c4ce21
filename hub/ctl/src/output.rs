//! Standard output and standard error: tables, JSON, YAML, names. What came from elsewhere never moves the terminal.
use crate::{
    config,
    failure::{Failure, Outcome},
};
use clap::ValueEnum;
use serde_json::Value;
use std::io::{IsTerminal as _, Write as _};

/// How data is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A table for people
    Table,
    /// A table with more columns
    Wide,
    Json,
    Yaml,
    /// Resource names, one a line
    Name,
}

/// What a word means to the eye.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    Plain,
    Good,
    Warn,
    Bad,
    Faint,
}

/// A table's cell.
#[derive(Clone, Debug)]
pub struct Cell {
    pub text: String,
    tone: Tone,
}

/// A cell without a tone.
pub fn cell(text: impl Into<String>) -> Cell {
    toned(text, Tone::Plain)
}
/// A cell with a tone.
pub fn toned(text: impl Into<String>, tone: Tone) -> Cell {
    let text = plain(&text.into());
    Cell { text: if text.is_empty() { "-".into() } else { text }, tone }
}

/// Text without control characters: names and lines come from elsewhere.
pub fn plain(s: &str) -> String {
    s.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// The table's lines: columns as wide as their widest cell, two spaces between.
pub fn table(head: &[&str], rows: &[Vec<Cell>], color: bool) -> Vec<String> {
    let width = |i: usize| {
        let cells = rows.iter().filter_map(|r| r.get(i)).map(|c| c.text.chars().count());
        cells.chain([head.get(i).map_or(0, |h| h.len())]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let row = |cells: &[Cell]| {
        let mut line = String::new();
        for (i, (c, width)) in cells.iter().zip(&widths).enumerate() {
            let (before, after) = if color { codes(c.tone) } else { ("", "") };
            let pad = if i + 1 < cells.len() { width + 2 - c.text.chars().count() } else { 0 };
            line += &format!("{before}{}{after}{}", c.text, " ".repeat(pad));
        }
        line
    };
    let head: Vec<Cell> = head.iter().map(|h| toned(*h, Tone::Faint)).collect();
    std::iter::once(row(&head)).chain(rows.iter().map(|r| row(r))).collect()
}

fn codes(tone: Tone) -> (&'static str, &'static str) {
    match tone {
        Tone::Plain => ("", ""),
        Tone::Good => ("\x1b[32m", "\x1b[0m"),
        Tone::Warn => ("\x1b[33m", "\x1b[0m"),
        Tone::Bad => ("\x1b[31m", "\x1b[0m"),
        Tone::Faint => ("\x1b[2m", "\x1b[0m"),
    }
}

/// One kind of resource, ready to be written in any format.
pub struct Listing {
    pub head: Vec<&'static str>,
    pub rows: Vec<Vec<Cell>>,
    pub names: Vec<String>,
    /// The API's objects; JSON never depends on the terminal.
    pub objects: Vec<Value>,
    /// What YAML shows: manifests where the kind has them.
    pub manifests: Vec<Value>,
    /// One resource was asked for by name: JSON is the object and not a list.
    pub single: bool,
    /// Said on standard error when there is nothing.
    pub empty: &'static str,
}

impl Listing {
    /// Writes it to standard output.
    pub fn print(&self, format: Format) -> Outcome {
        match format {
            Format::Table | Format::Wide => {
                if self.rows.is_empty() {
                    say(self.empty);
                    return Ok(());
                }
                for l in table(&self.head, &self.rows, color_stdout()) {
                    line(&l);
                }
            }
            Format::Json => line(&match (&self.objects[..], self.single) {
                ([one], true) => pretty(one)?,
                (all, _) => pretty(&Value::Array(all.to_vec()))?,
            }),
            Format::Yaml => line(yaml(&self.manifests)?.trim_end()),
            Format::Name => self.names.iter().for_each(|n| line(&plain(n))),
        }
        Ok(())
    }
}

impl Listing {
    /// What tells the resources apart; events have no name of their own.
    pub fn keys(&self) -> impl Iterator<Item = String> + '_ {
        self.names.iter().zip(&self.objects).map(|(name, object)| match object.get("at").and_then(Value::as_str) {
            Some(at) => format!("{name} {at} {}", object["reason"].as_str().unwrap_or_default()),
            None => name.clone(),
        })
    }

    /// Writes some of it, for a reader that follows: rows under one head, JSON one object a line.
    pub fn print_some(&self, which: &[usize], format: Format, first: bool) -> Outcome {
        match format {
            Format::Table | Format::Wide => {
                // All rows give the widths, so that what comes later stands under the same head.
                let lines = table(&self.head, &self.rows, color_stdout());
                let head = first.then_some(0);
                head.into_iter().chain(which.iter().map(|i| i + 1)).for_each(|i| line(&lines[i]));
            }
            Format::Json => which.iter().for_each(|i| line(&self.objects[*i].to_string())),
            Format::Yaml => {
                for i in which {
                    line(&format!("---\n{}", yaml(&self.manifests[*i..=*i])?.trim_end()));
                }
            }
            Format::Name => which.iter().for_each(|i| line(&plain(&self.names[*i]))),
        }
        Ok(())
    }
}

fn pretty(v: &Value) -> Outcome<String> {
    serde_json::to_string_pretty(v).map_err(|e| Failure::error(e.to_string()))
}

/// YAML documents, `---` between them.
pub fn yaml(documents: &[Value]) -> Outcome<String> {
    let one =
        |d| serde_saphyr::to_string(d).map_err(|e| Failure::error(format!("this cannot be written as YAML: {e}")));
    Ok(documents.iter().map(one).collect::<Outcome<Vec<_>>>()?.join("---\n"))
}

/// A line of data. A closed pipe ends the program quietly, as for every filter.
pub fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{text}").and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

/// A line for the person, not for a program.
pub fn say(text: &str) {
    eprintln!("{}", plain(text));
}

/// May standard output be coloured?
pub fn color_stdout() -> bool {
    std::io::stdout().is_terminal() && !config::no_color()
}
/// May standard error be coloured?
pub fn color_stderr() -> bool {
    std::io::stderr().is_terminal() && !config::no_color()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_align_and_never_carry_control_characters() {
        let rows = vec![
            vec![cell("press-4"), toned("Online", Tone::Good), cell("")],
            vec![cell("a\x1b[31m"), toned("Offline", Tone::Bad), cell("7")],
        ];
        insta::assert_snapshot!(table(&["NAME", "LINK", "N"], &rows, false).join("\n"), @r"
        NAME     LINK     N
        press-4  Online   -
        a�[31m   Offline  7
        ");
        assert!(table(&["A"], &[vec![toned("x", Tone::Bad)]], true)[1].starts_with("\x1b[31m"));
    }
}
