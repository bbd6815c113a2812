//! The clap tree: what was typed, nothing resolved.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Runs declarative experiments: one YAML file in, tables, models and reports out, and nothing is paid twice.
#[derive(Debug, Parser)]
#[command(
    name = "dag",
    version,
    max_term_width = 100,
    disable_help_subcommand = true,
    after_help = "\
Start here:
  dag plan experiments/smoke.yaml       what would run, and why
  dag run experiments/smoke.yaml        run it; a second time nothing runs
  dag explain experiments/smoke.yaml table

Exit codes:
  0    done
  1    a node failed, or the machine refused something
  2    the file or the command line is wrong, or something a node needs is missing; nothing was run
  4    a bug in dag
  130  interrupted; the next `dag run` goes on from there"
)]
pub struct Arguments {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Options that every command takes.
#[derive(Debug, Args)]
pub struct Global {
    /// The store; by default the nearest `.dag` at or above the current directory, else a new one in it
    #[arg(long, global = true, value_name = "DIR", env = "DAG_STORE", hide_env_values = true)]
    pub store: Option<PathBuf>,
    /// The shared cache, as `s3://bucket/folder`, instead of the file's `remote:`; `none` does without one
    #[arg(long, global = true, value_name = "URL", env = "DAG_REMOTE", hide_env_values = true)]
    pub remote: Option<String>,
    /// Write JSON to stdout, for programs; `run` then writes one event a line
    #[arg(long, global = true)]
    pub json: bool,
    /// When to use colour
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub color: ColorChoice,
}

/// When to use colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ColorChoice {
    /// On a terminal, unless `NO_COLOR` is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// One of these per file in `cli/commands/`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run an experiment, or the named nodes and what they need
    Run(Run),
    /// Show what would run, why, and what it would cost; changes nothing
    Plan(Plan),
    /// Show which field or input makes a node differ from its last run
    Explain(Explain),
    /// Compare two arms, files, profiles or runs
    #[command(override_usage = "dag diff [OPTIONS] FILE ARM ARM\n       dag diff [OPTIONS] LEFT RIGHT")]
    Diff(Diff),
    /// List runs and the state of their nodes, live or finished
    Status(Status),
    /// Follow a run that goes on in another process, from its beginning to its end
    Attach(Attach),
    /// Ask a run of another process to stop, as Ctrl-C would
    Stop(Stop),
    /// Show what happened in a run, as it was told then
    Log(Log),
    /// Show the records, metrics or files of an artifact
    Show(Show),
    /// Show the newest report of an experiment, or open its page
    Report(Report),
    /// Follow records of a table back to the responses and source rows behind them
    Trace(Trace),
    /// Grade an answer, or a file of them, as `judge` and `evaluate` do
    #[command(
        override_usage = "dag grade [OPTIONS] GOLD PREDICTION\n       dag grade [OPTIONS] --file CASES.jsonl"
    )]
    Grade(Grade),
    /// Draw the graph as text, DOT, Mermaid or SVG
    Graph(GraphArguments),
    /// Check a file without running it: every fault at once
    Check(Check),
    /// Print the JSON Schema of experiment files, for editors
    Schema(Schema),
    /// Copy an artifact out of the store
    Export(Export),
    /// Give results to the shared cache: records, bytes and responses
    Push(Push),
    /// Take results from the shared cache, bytes included
    Pull(Pull),
    /// Remove what no run needs any more; shows it first
    Gc(Gc),
    /// Hash everything in the store again and report what is damaged
    Verify(Verify),
    /// Carry out a part of an order; jobs on other machines run this
    #[command(hide = true)]
    Worker(Worker),
    /// Keep a server up; runs start this for their services
    #[command(hide = true)]
    Serve(Serve),
}

/// An experiment as it is to be compiled.
#[derive(Debug, Clone, Args)]
pub struct ExperimentArguments {
    /// The experiment file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The profile to use instead of the file's own choice
    #[arg(long, short, value_name = "NAME")]
    pub profile: Option<String>,
    /// Set a param, as in `--set train.steps=100`; may be repeated, and wins over the file
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

/// Arguments of `dag run`.
#[derive(Debug, Args)]
#[command(after_help = "\
A node is named as in `dag plan`: `trained` means all of its coordinates, `trained@r1` those of one arm.

Ctrl-C once: no new work is taken, what is in flight is finished or checkpointed. Twice: stop at once.
Either way the next run goes on where this one was.")]
pub struct Run {
    #[command(flatten)]
    pub experiment: ExperimentArguments,
    /// The nodes wanted, with all they need; by default every node
    #[arg(value_name = "NODE")]
    pub nodes: Vec<String>,
    /// Run this node again even though its result is known; may be repeated
    #[arg(long, value_name = "NODE")]
    pub rerun: Vec<String>,
    /// After a failure go on with every node that does not need the failed one
    #[arg(long, short)]
    pub keep_going: bool,
    /// Threads that all running nodes may keep busy together; by default the cores of the machine
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub jobs: Option<u32>,
    /// Stop before the next record that would bring the run above so many dollars; what is done is kept
    #[arg(long, value_name = "DOLLARS", value_parser = dollars)]
    pub budget: Option<f64>,
    /// Start the run in the background and return; `dag attach` follows it
    #[arg(long)]
    pub detach: bool,
    /// Ask each model for N records only, keep them, and say from them what all would take
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub pilot: Option<u64>,
}

/// Reads an amount of money.
fn dollars(text: &str) -> Result<f64, String> {
    let amount: f64 =
        text.trim_start_matches('$').parse().map_err(|_| "an amount such as 12.50".to_owned())?;
    if amount.is_finite() && amount >= 0.0 { Ok(amount) } else { Err("an amount is zero or more".to_owned()) }
}

/// Arguments of `dag serve`.
#[derive(Debug, Args)]
pub struct Serve {
    /// The folder of the service
    #[arg(value_name = "FOLDER")]
    pub folder: PathBuf,
    /// Which of its replicas
    #[arg(long, value_name = "N")]
    pub replica: u32,
    /// Which start of that
    #[arg(long, value_name = "N")]
    pub attempt: u32,
    /// What the scheduler calls this job
    #[arg(long, value_name = "ID", default_value = "")]
    pub job: String,
    /// The machine, as others find it
    #[arg(long, value_name = "NAME", default_value = "127.0.0.1")]
    pub machine: String,
}

/// Arguments of `dag worker`.
#[derive(Debug, Args)]
pub struct Worker {
    /// The folder of the jobs
    #[arg(value_name = "FOLDER")]
    pub folder: PathBuf,
    /// The number of the submission
    #[arg(long, value_name = "N")]
    pub submission: u32,
    /// The part: `whole`, or the number of a shard
    #[arg(long, value_name = "PART")]
    pub part: dag_cluster::Part,
    /// Stop by itself after so many seconds
    #[arg(long, value_name = "SECONDS")]
    pub time: Option<u64>,
    /// What the scheduler calls this attempt
    #[arg(long, value_name = "NAME", default_value = "0")]
    pub attempt: String,
    /// The machine
    #[arg(long, value_name = "NAME", default_value = "?")]
    pub host: String,
}

/// Arguments of `dag plan`.
#[derive(Debug, Args)]
pub struct Plan {
    #[command(flatten)]
    pub experiment: ExperimentArguments,
    /// The nodes wanted, with all they need; by default every node
    #[arg(value_name = "NODE")]
    pub nodes: Vec<String>,
    /// Plan as if this node's result were not known; may be repeated
    #[arg(long, value_name = "NODE")]
    pub rerun: Vec<String>,
    /// One line per node, even where an axis is long
    #[arg(long)]
    pub expand: bool,
}

/// Arguments of `dag explain`.
#[derive(Debug, Args)]
pub struct Explain {
    #[command(flatten)]
    pub experiment: ExperimentArguments,
    /// The node, as in `dag plan`
    #[arg(value_name = "NODE")]
    pub node: String,
}

/// Arguments of `dag diff`.
#[derive(Debug, Args)]
#[command(after_help = "\
Two arms of one experiment (any two values of one axis):
  dag diff experiments/mistral-nemo.yaml r1 gpt-oss
Two files, or two profiles of one:
  dag diff experiments/mistral-nemo.yaml experiments/nemotron-nano.yaml
  dag diff experiments/mistral-nemo.yaml experiments/mistral-nemo.yaml@paper
Two runs, by the ids that `dag status` lists:
  dag diff 20251123-2149-07 20251123-2203-11")]
pub struct Diff {
    /// FILE ARM ARM, or two of: a file, FILE@PROFILE, the id of a run
    #[arg(value_name = "WHAT", num_args = 2..=3, required = true)]
    pub what: Vec<String>,
    /// The profile to use instead of the file's own choice
    #[arg(long, short, value_name = "NAME")]
    pub profile: Option<String>,
    /// Set a param, as in `--set train.steps=100`; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

/// Arguments of `dag status`.
#[derive(Debug, Args)]
pub struct Status {
    /// One run, by its id; `latest` is the newest
    #[arg(value_name = "RUN")]
    pub run: Option<String>,
    /// How many runs to list
    #[arg(long, short = 'n', value_name = "N", default_value_t = 10)]
    pub limit: usize,
}

/// Arguments of `dag attach`.
#[derive(Debug, Args)]
pub struct Attach {
    /// The run, by its id; by default the newest
    #[arg(value_name = "RUN")]
    pub run: Option<String>,
}

/// Arguments of `dag stop`.
#[derive(Debug, Args)]
pub struct Stop {
    /// The run, by its id; by default the newest that goes on
    #[arg(value_name = "RUN")]
    pub run: Option<String>,
}

/// Arguments of `dag log`.
#[derive(Debug, Args)]
pub struct Log {
    /// What the jobs of the nodes printed, where an executor ran them
    #[arg(long, requires = "nodes")]
    pub output: bool,
    /// Only what concerns these nodes
    #[arg(value_name = "NODE")]
    pub nodes: Vec<String>,
    /// The run, by its id; by default the newest
    #[arg(long, value_name = "ID")]
    pub run: Option<String>,
}

/// Arguments of `dag show`.
#[derive(Debug, Args)]
pub struct Show {
    #[command(flatten)]
    pub experiment: ExperimentArguments,
    /// The node, as in `dag plan`; NODE.PORT names an output other than the first
    #[arg(value_name = "NODE")]
    pub node: String,
    /// How many records of a table, or lines of a text, to show
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub head: usize,
    /// Show this file of a directory, such as `training/summary.json`
    #[arg(long, value_name = "PATH")]
    pub path: Option<String>,
    /// Only records for which this expression holds, as in `filter`
    #[arg(long = "where", value_name = "EXPRESSION")]
    pub condition: Option<String>,
}

/// Arguments of `dag report`.
#[derive(Debug, Args)]
#[command(after_help = "\
  dag report                                the newest report of all runs in the store
  dag report experiments/smoke.yaml         that of an experiment, as text, with the times of its run
  dag report experiments/smoke.yaml --open  its page, in the browser
  dag report experiments/smoke.yaml --format csv > table.csv")]
pub struct Report {
    /// The experiment file; without it the newest report of all runs
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// The node, as in `dag plan`; needed where the experiment has several reports
    #[arg(value_name = "NODE")]
    pub node: Option<String>,
    /// The profile to use instead of the file's own choice
    #[arg(long, short, value_name = "NAME")]
    pub profile: Option<String>,
    /// Set a param, as in `--set train.steps=100`; may be repeated, and wins over the file
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// What to write to stdout
    #[arg(long, short, value_name = "FORMAT", default_value = "text")]
    pub format: ReportFormat,
    /// Lay the page out and print its path
    #[arg(long, conflicts_with = "format")]
    pub path: bool,
    /// Lay the page out and open it in the browser
    #[arg(long, conflicts_with_all = ["format", "path"])]
    pub open: bool,
}

/// The forms of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ReportFormat {
    /// Tables for a terminal.
    Text,
    /// The page, without the blocks beside it; `--path` gives the whole.
    Html,
    /// A Markdown document.
    Markdown,
    /// The main table in full precision.
    Csv,
    /// Every number.
    Json,
}

/// Arguments of `dag trace`.
#[derive(Debug, Args)]
#[command(after_help = "\
  dag trace FILE evaluated@r1/1/gsm8k
tells all that a number was made from: the model and its training, which packs, examples, verdicts, responses
and rows of the data set, each with its counts and digests.
  dag trace FILE both_correct --where 'id == \"gsm8k-12\"'
shows, for every record it finds in the table, in what was dropped from it and in the tables before it:
the verdict and the rule that gave it, the response, and the row of the data set it began with.
  dag trace FILE problems --where 'id == \"gsm8k-12\"' --forward
shows what came of it: where it was dropped or packed, the steps trained on it, the numbers behind which it stands.")]
pub struct Trace {
    #[command(flatten)]
    pub experiment: ExperimentArguments,
    /// The node to start from, as in `dag plan`; NODE.PORT names an output other than the first
    #[arg(value_name = "NODE")]
    pub node: String,
    /// Follow the records for which this expression holds, as in `filter`
    #[arg(long = "where", value_name = "EXPRESSION")]
    pub condition: Option<String>,
    /// How many records to follow (3 unless it is said)
    #[arg(long, value_name = "N")]
    pub head: Option<usize>,
    /// Follow records on to what came of them, not back to where they come from
    #[arg(long)]
    pub forward: bool,
}

/// Arguments of `dag grade`.
#[derive(Debug, Args)]
#[command(after_help = "\
  dag grade '\\frac{1}{2}' 'So the answer is \\boxed{0.5}.' --explain
  dag grade --file cases.jsonl --json > verdicts.jsonl
A case is a JSON object with `gold`, `prediction` and, if it is to be passed through, `id`.
The exit code says nothing of the verdict; it is 2 where a case cannot be read.")]
pub struct Grade {
    /// The reference answer
    #[arg(value_name = "GOLD", required_unless_present = "file", allow_hyphen_values = true)]
    pub gold: Option<String>,
    /// What is to be graded: a bare answer or a whole response
    #[arg(value_name = "PREDICTION", required_unless_present = "file", allow_hyphen_values = true)]
    pub prediction: Option<String>,
    /// Grade every line of this JSONL file; `-` is stdin
    #[arg(long, value_name = "FILE", conflicts_with_all = ["gold", "prediction"])]
    pub file: Option<PathBuf>,
    /// Show where the answer was found, what both sides were taken for and what decided
    #[arg(long)]
    pub explain: bool,
    /// A field of `grading:` as KEY=VALUE, or a YAML file or `{…}` of such fields; may be repeated. Here, other than in
    /// experiments, `last_number` is true unless it is set
    #[arg(long, value_name = "POLICY", allow_hyphen_values = true)]
    pub policy: Vec<String>,
}

/// Arguments of `dag graph`.
#[derive(Debug, Args)]
pub struct GraphArguments {
    #[command(flatten)]
    pub experiment: ExperimentArguments,
    /// How to draw it
    #[arg(long, short, value_name = "FORMAT", default_value = "text")]
    pub format: GraphFormat,
    /// Draw every node of an axis instead of one with a count
    #[arg(long)]
    pub expand: bool,
}

/// How a graph is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum GraphFormat {
    /// Lines of text.
    Text,
    /// The language of Graphviz.
    Dot,
    /// The language of Mermaid, which Markdown pages render.
    Mermaid,
    /// A picture.
    Svg,
}

/// Arguments of `dag check`.
#[derive(Debug, Args)]
pub struct Check {
    #[command(flatten)]
    pub experiment: ExperimentArguments,
}

/// Arguments of `dag schema`.
#[derive(Debug, Args)]
pub struct Schema {
    /// List the task kinds instead, each with what it does
    #[arg(long)]
    pub tasks: bool,
}

/// Arguments of `dag export`.
#[derive(Debug, Args)]
pub struct Export {
    #[command(flatten)]
    pub experiment: ExperimentArguments,
    /// The node, as in `dag plan`; NODE.PORT names an output other than the first
    #[arg(value_name = "NODE")]
    pub node: String,
    /// Where to put the file or directory; must not exist
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
}

/// What `dag push` and `dag pull` are about.
#[derive(Debug, Args)]
pub struct Sharing {
    /// The experiment file, or the id of a run
    #[arg(value_name = "FILE|RUN")]
    pub what: PathBuf,
    /// The nodes, as in `dag plan`; by default every node
    #[arg(value_name = "NODE")]
    pub nodes: Vec<String>,
    /// The profile to use instead of the file's own choice
    #[arg(long, short, value_name = "NAME")]
    pub profile: Option<String>,
    /// Set a param, as in `--set train.steps=100`; may be repeated, and wins over the file
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Only nodes of this arm; may be repeated
    #[arg(long, value_name = "ARM")]
    pub arm: Vec<String>,
}

/// Arguments of `dag push`.
#[derive(Debug, Args)]
#[command(after_help = "\
What is there already is left out, so a push that was interrupted goes on where it was.
Only nodes that are up to date are given. Partial results, with records that are owed, stay here.")]
pub struct Push {
    #[command(flatten)]
    pub sharing: Sharing,
    /// Leave out what models have answered, which is kept per model and not per node
    #[arg(long)]
    pub no_responses: bool,
}

/// Arguments of `dag pull`.
#[derive(Debug, Args)]
#[command(after_help = "\
`dag run` takes what it needs by itself; this takes everything, to work without the shared cache later.
Responses of a model come when a node is going to ask that model.")]
pub struct Pull {
    #[command(flatten)]
    pub sharing: Sharing,
}

/// Arguments of `dag gc`.
#[derive(Debug, Args)]
#[command(after_help = "\
Records, verdicts and responses stay: a collected artifact is made again only if its bytes are needed.
Artifacts of the files given, and all that was used within the last `--keep` days, stay too.")]
pub struct Gc {
    /// Experiment files whose artifacts stay
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Keep what was used within so many days
    #[arg(long, value_name = "DAYS", default_value_t = 14.0)]
    pub keep: f64,
    /// Remove it; without this nothing is changed
    #[arg(long)]
    pub yes: bool,
}

/// Arguments of `dag verify`.
#[derive(Debug, Args)]
pub struct Verify {
    /// Put damaged files aside and make the indexes anew
    #[arg(long)]
    pub rebuild: bool,
}
