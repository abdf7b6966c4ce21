//! Manual pages of a program, made from its own command line: one for the program and one for every verb below it.
//!
//! Knows the words of a command line and not what they do. Hidden verbs have no page; `help` is none.
use clap::Command;
use std::{
    io::{self, Write},
    path::Path,
};

/// What `man` takes in each of the three programs.
#[derive(Debug, clap::Args)]
pub struct Man {
    /// Write the page of the program and of every verb into this folder, instead of the program's own to standard output
    #[arg(long, value_name = "DIR")]
    pub dir: Option<std::path::PathBuf>,
}

impl Man {
    /// Does it: the program's page to `out`, or all pages into the folder, which is made.
    pub fn run(&self, command: Command, section: &str, out: &mut dyn Write) -> io::Result<()> {
        let mut command = without_help(command);
        command.build();
        let program = command.get_name().to_owned();
        let source = format!("RedForge {}", command.get_version().unwrap_or_default());
        match &self.dir {
            None => page(command, section, &source, &program).render(out),
            Some(dir) => {
                std::fs::create_dir_all(dir)?;
                write_all(&command, section, &source, dir)
            }
        }
    }
}

fn without_help(command: Command) -> Command {
    command.disable_help_subcommand(true).mut_subcommands(without_help)
}

fn page(command: Command, section: &str, source: &str, program: &str) -> clap_mangen::Man {
    let is_verb = command.get_name() != program;
    let command = match command.get_after_help() {
        None if is_verb => command.after_help(format!("Exit codes and more: {program}({section}).")),
        _ => command,
    };
    clap_mangen::Man::new(command).section(section).source(source).manual("RedForge")
}

fn write_all(program: &Command, section: &str, source: &str, dir: &Path) -> io::Result<()> {
    let mut open = vec![program];
    while let Some(command) = open.pop() {
        open.extend(command.get_subcommands().filter(|c| !c.is_hide_set()));
        page(command.clone(), section, source, program.get_name()).generate_to(dir)?;
    }
    Ok(())
}
