//! What can be typed: verbs, arguments and their help.
use crate::{config::Connection, node_modules::Source, output::Format};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

const AFTER: &str = "\
Exit codes:
  0  done                          5  denied, or no valid token
  1  error                         6  --wait ran into its --timeout
  2  wrong usage                   7  the hosts could not make it so
  3  not found                     8  the hub cannot be reached
  4  conflict with what is there

Settings come from flags, then the environment (REDFORGE_HUB, REDFORGE_TOKEN,
REDFORGE_TOKEN_FILE, REDFORGE_CA_FILE, REDFORGE_CA_PIN), then the file
redforge/config.toml of your configuration folder.";

/// Runs and watches what your edge hosts should do.
#[derive(Debug, Parser)]
#[command(name = "redforgectl", version, after_help = AFTER, max_term_width = 110, subcommand_required = true)]
pub struct Cli {
    #[command(flatten)]
    pub connection: Connection,
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Create or change what manifests say: all of them or none
    Apply(Apply),
    /// Work with flow sets
    #[command(subcommand)]
    Flowset(FlowSetVerb),
    /// Work with the images and models that hosts get from the hub
    #[command(subcommand)]
    Artifact(ArtifactVerb),
    /// Show resources
    Get(Get),
    /// Show the log lines that an instance sent up
    Logs(Logs),
    /// Show records that came up
    Records(Records),
    /// Search vectors by meaning
    Search(Search),
    /// Show what arrived: committed, gaps, lost, resent
    Streams(Streams),
    /// Work with enrollment tokens
    #[command(subcommand)]
    Token(TokenVerb),
    /// Remove resources
    #[command(subcommand)]
    Delete(DeleteVerb),
    /// Open the editor of a Node-RED instance for one person (developer mode), or close it again
    Editor(Editor),
    /// Bring an earlier revision of an instance back
    Rollback(Rollback),
    /// Let a host in again: after it was seen on two machines, or after the hub was restored from a backup
    Resume {
        /// Name of the host
        host: String,
    },
    /// Print a completion script for a shell
    Completion { shell: clap_complete::Shell },
    /// Print the manual page, or write the pages of all verbs
    Man(redforge_shared::manual::Man),
    /// Print the version
    Version,
}

#[derive(Debug, Args)]
pub struct Apply {
    /// A manifest, a folder of them (*.yaml, *.yml), or - for standard input; may be repeated
    #[arg(short = 'f', long = "file", value_name = "FILE|DIR|-", required = true)]
    pub files: Vec<PathBuf>,
    /// Check everything, show what would change, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub wait: Wait,
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,
}

#[derive(Clone, Debug, Args)]
pub struct Wait {
    /// Wait until the instances run as desired
    #[arg(long)]
    pub wait: bool,
    /// With --wait: also until a new version has worked for its time, and the host no longer takes it back by itself
    #[arg(long, requires = "wait")]
    pub trusted: bool,
    /// How long to wait: 90s, 5m, 1h
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = crate::words::duration)]
    pub timeout: std::time::Duration,
}

#[derive(Debug, Subcommand)]
pub enum FlowSetVerb {
    /// Push an unmodified editor export as the newest revision of a flow set
    Push(Push),
    /// Get the files of a flow set back: pushing them again changes nothing
    Pull(Pull),
    /// Compare flows node by node
    Diff(Diff),
    /// List flows that were edited at hosts whose instances adopt edits
    Drafts {
        /// Only those of this flow set
        name: Option<String>,
        #[arg(short, long, value_enum, default_value_t = Format::Table)]
        output: Format,
    },
    /// Bring an earlier revision of a flow set back: every instance that uses it gets it
    Rollback(FlowSetRollback),
    /// Make a draft the newest revision of its flow set: every instance that uses it gets the edit
    Adopt(Adopt),
}

#[derive(Debug, Args)]
pub struct FlowSetRollback {
    /// Name of the flow set
    pub name: String,
    /// Revision to go back to [default: the newest one that was another than it is now]
    #[arg(long, value_name = "REVISION", value_parser = clap::value_parser!(u64).range(1..))]
    pub to: Option<u64>,
    #[command(flatten)]
    pub wait: Wait,
}

#[derive(Debug, Args)]
pub struct Adopt {
    /// The draft: FLOWSET/NUMBER
    pub draft: String,
    /// Although the flow set has a newer revision than the one that was edited
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub wait: Wait,
}

/// Which of a flow set's versions is meant; without a word the newest revision.
#[derive(Clone, Debug, Default, Args)]
pub struct Version {
    /// This revision
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..), conflicts_with_all = ["draft", "host"])]
    pub revision: Option<u64>,
    /// A draft instead: this one, or without a number the newest
    #[arg(long, value_name = "NUMBER", num_args = 0..=1, default_missing_value = "0")]
    pub draft: Option<u64>,
    /// The newest draft of this host
    #[arg(long, value_name = "HOST")]
    pub host: Option<String>,
}

#[derive(Debug, Args)]
pub struct Pull {
    /// Name of the flow set
    pub name: String,
    #[command(flatten)]
    pub version: Version,
    /// Folder for the files, or - for the flows on standard output [default: a folder named as the flow set]
    #[arg(short, long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Replace files in the folder that are others
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
What is compared with what:
  diff NAME -f PATH              the newest revision at the hub with the files
  diff -f DIR                    the same; the folder's flowset.yaml has the name
  diff NAME                      the same with the folder NAME
  diff NAME --host HOST          the newest revision with what was edited there
  diff NAME --host HOST -f PATH  what was edited there with the files

Exit codes: 0 the same, 1 different, 2 they could not be compared.")]
pub struct Diff {
    /// Name of the flow set
    #[arg(required_unless_present = "file")]
    pub name: Option<String>,
    /// A folder of `flowset pull`, an editor export, or - for standard input
    #[arg(short = 'f', long = "file", value_name = "PATH")]
    pub file: Option<PathBuf>,
    #[command(flatten)]
    pub version: Version,
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,
}

#[derive(Debug, Args)]
pub struct Push {
    /// Name of the flow set
    pub name: String,
    /// The export: a JSON array of nodes, a folder of `flowset pull`, or - for standard input. Credentials stay out; their
    /// names are listed
    pub file: PathBuf,
    /// Node modules that go with the flows: a folder with a package.json in which npm has installed them, a .tgz of `npm
    /// pack`, or a folder of those; may be repeated. Hosts need no npm [default: those of the package.json beside the
    /// export, if there is one]
    #[arg(long, value_name = "DIR|TGZ")]
    pub modules: Vec<PathBuf>,
    /// Leave a package.json beside the export alone: the hosts' image has what the flows need
    #[arg(long, conflicts_with = "modules")]
    pub no_modules: bool,
    /// Make the node-red instance of this name on that host use it; may be repeated
    #[arg(long, value_name = "HOST")]
    pub to: Vec<String>,
    /// Image of the instance, where --to must create it [default: that of the host's or the hub's other node-red instances]
    #[arg(long, value_name = "REFERENCE")]
    pub image: Option<String>,
    #[command(flatten)]
    pub wait: Wait,
}

impl Push {
    /// Where the modules come from.
    pub fn source(&self) -> Source {
        if self.modules.is_empty() && !self.no_modules { Source::Beside } else { Source::Named(self.modules.clone()) }
    }
}

#[derive(Debug, Subcommand)]
pub enum ArtifactVerb {
    /// Push an image (a tar of `docker save`), a model, or a flow set; goes on where an earlier push broke off
    Push(ArtifactPush),
    /// Show what was pushed, and which instances need it
    List {
        #[arg(short, long, value_enum, default_value_t = Format::Table)]
        output: Format,
    },
    /// Delete an image or a model from the hub; refused while an instance needs it
    Delete {
        /// Its reference or name, or its digest as `artifact list` shows it (12 digits are enough)
        artifact: String,
    },
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct ArtifactPush {
    /// A tar as `docker save` writes it, not compressed
    #[arg(required = true)]
    pub file: Option<PathBuf>,
    /// The reference that manifests use [default: the tag in the tar]
    #[arg(long = "as", value_name = "REFERENCE")]
    pub reference: Option<String>,
    #[command(subcommand)]
    pub other: Option<OtherPush>,
}

#[derive(Debug, Subcommand)]
pub enum OtherPush {
    /// Push a model out of a folder of Ollama's, or out of a tar of such a folder
    Model {
        /// Its name, such as nomic-embed-text or llama3.2:1b
        name: String,
        /// The folder that holds `manifests` and `blobs` (often ~/.ollama/models), or a tar of it
        #[arg(long, value_name = "FOLDER|TAR")]
        from: PathBuf,
    },
    /// Push a flow set: the same as `flowset push`
    Flowset(Push),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    #[value(alias = "host")]
    Hosts,
    #[value(alias = "instance", alias = "inst")]
    Instances,
    #[value(alias = "site")]
    Sites,
    #[value(alias = "flowset", alias = "fs")]
    Flowsets,
    #[value(alias = "collection")]
    Collections,
    #[value(alias = "event")]
    Events,
}

#[derive(Debug, Args)]
pub struct Editor {
    /// The instance: HOST/NAME, its full name, or instance/NAME where only one host has one of that name
    pub name: String,
    /// How long it stays open: 30m, 8h, 7d
    #[arg(long = "for", value_name = "TIME", default_value = "1h", value_parser = crate::words::duration)]
    pub time: std::time::Duration,
    /// Publish it on this port of the host, on 127.0.0.1, where the instance publishes none: that makes a new container
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// End developer mode now: the fleet's flows come back, what was edited stays as a draft
    #[arg(long, conflicts_with_all = ["time", "port"])]
    pub close: bool,
    /// How long to wait until the host has taken it up
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = crate::words::duration)]
    pub timeout: std::time::Duration,
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,
}

#[derive(Debug, Args)]
pub struct Rollback {
    /// The instance: HOST/NAME, its full name, or instance/NAME where only one host has one of that name
    pub name: String,
    /// Revision to go back to [default: the newest one that was another than it is now]
    #[arg(long, value_name = "REVISION", value_parser = clap::value_parser!(u64).range(1..))]
    pub to: Option<u64>,
    #[command(flatten)]
    pub wait: Wait,
}

#[derive(Debug, Args)]
pub struct Get {
    #[arg(value_enum)]
    pub kind: Kind,
    /// Only this one; an instance is named HOST/NAME
    pub name: Option<String>,
    /// Only what belongs to this host
    #[arg(long, value_name = "HOST")]
    pub host: Option<String>,
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,
    /// Stay, and print again what changes; JSON is one object a line
    #[arg(short, long)]
    pub watch: bool,
}

#[derive(Debug, Args)]
pub struct Logs {
    /// HOST/INSTANCE
    pub instance: String,
    /// Stay, and print lines as they arrive
    #[arg(short, long)]
    pub follow: bool,
    /// How many lines from the end; with --follow at most 200 of those that are there already
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub tail: u32,
    /// Only lines made since then: 90s, 5m, 1h, 7d ago, or a time such as 2026-11-23T10:00:00Z
    #[arg(long, value_name = "TIME", value_parser = crate::words::since)]
    pub since: Option<time::OffsetDateTime>,
    /// Put the time before each line
    #[arg(long)]
    pub timestamps: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Class {
    Vector,
    Log,
    Event,
    Measurement,
}

#[derive(Debug, Args)]
pub struct Records {
    #[arg(long, value_enum)]
    pub class: Option<Class>,
    #[arg(long, value_name = "HOST")]
    pub host: Option<String>,
    #[arg(long, value_name = "NAME")]
    pub instance: Option<String>,
    /// Only records with this key
    #[arg(long)]
    pub key: Option<String>,
    /// Only records made since then: 90s, 5m, 1h, 7d ago, or a time such as 2026-11-23T10:00:00Z
    #[arg(long, value_name = "TIME", value_parser = crate::words::since)]
    pub since: Option<time::OffsetDateTime>,
    /// How many, the newest first
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub limit: u32,
    /// Stay, and print records as they arrive, the oldest first
    #[arg(short, long)]
    pub follow: bool,
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("query").required(true))]
pub struct Search {
    /// What to look for, in words
    #[arg(group = "query")]
    pub text: Option<String>,
    /// A record whose vector is the query, as records or search name it
    #[arg(long, value_name = "RECORD", group = "query")]
    pub like: Option<String>,
    /// A file with the query's components as a JSON array
    #[arg(long, value_name = "FILE", group = "query")]
    pub vector: Option<PathBuf>,
    /// Where to search, if there is more than one collection
    #[arg(long)]
    pub collection: Option<String>,
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub limit: u32,
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,
}

#[derive(Debug, Args)]
pub struct Streams {
    #[arg(long, value_name = "HOST")]
    pub host: Option<String>,
    /// A row for each epoch instead of each host and class
    #[arg(long)]
    pub epochs: bool,
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,
}

#[derive(Debug, Subcommand)]
pub enum TokenVerb {
    /// Create a token and print the complete line for the host
    Create(CreateToken),
}

#[derive(Debug, Args)]
pub struct CreateToken {
    /// Site that the hosts will belong to
    #[arg(long)]
    pub site: String,
    /// How long the token is good: 30m, 1h, 7d
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = crate::words::duration)]
    pub ttl: std::time::Duration,
    /// How many hosts may enroll with it
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub uses: u32,
    /// The only host name it is good for
    #[arg(long, value_name = "NAME")]
    pub host_name: Option<String>,
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,
}

#[derive(Debug, Subcommand)]
pub enum DeleteVerb {
    /// Stop an instance and forget it; its volumes stay on the host
    Instance {
        /// HOST/NAME
        name: String,
    },
}
