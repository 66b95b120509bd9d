//! What a pass is, what it is told and what it reports.
//!
//! A pass maps a graph to a fresh graph, or says that there is nothing to do. It assumes a verified graph of its stage and
//! promises a graph of the same meaning: the same outputs, inputs and updates. Three kinds of failure look different:
//! the user's ([`Diags`]; only a derivative that does not exist, or a wrong option), the compiler's ([`CompilerBug`]) and
//! the environment's (a dump that cannot be written).

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use cotangent_graph::{Code, CompilerBug, Diag, Diags, Graph, GraphBuilder, Limits, Node, Stage};

/// One step of the pipeline.
pub trait Pass: Sync {
    /// The name in reports, dumps and options.
    fn name(&self) -> &'static str;
    /// What it is for, in a sentence.
    fn purpose(&self) -> &'static str;
    /// The earliest stage at which it may run, and the stage that it promises.
    fn stage(&self) -> (Stage, Stage);
    /// The new graph, or `None` if nothing changed; checked for honesty where the verifier runs.
    fn run(&self, graph: &Graph, cx: &mut PassCx<'_>) -> Result<Option<Graph>, PassError>;
    /// Whether it belongs to the group that is repeated until nothing changes any more.
    fn repeats(&self) -> bool {
        false
    }
}

/// Why a pass failed.
#[derive(Clone)]
pub enum PassError {
    /// Errors of the user.
    Diags(Diags),
    /// A bug of the compiler.
    Bug(CompilerBug),
    /// An error of the environment: a dump could not be written.
    Environment(String),
}

impl fmt::Display for PassError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PassError::Diags(diags) => diags.fmt(f),
            PassError::Bug(bug) => bug.fmt(f),
            PassError::Environment(text) => f.write_str(text),
        }
    }
}

/// The text of `Display`, so that `main` and `unwrap` print it.
impl fmt::Debug for PassError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for PassError {}

impl From<Diags> for PassError {
    fn from(diags: Diags) -> Self {
        PassError::Diags(diags)
    }
}

impl From<Diag> for PassError {
    fn from(diag: Diag) -> Self {
        PassError::Diags(diag.into())
    }
}

impl From<CompilerBug> for PassError {
    fn from(bug: CompilerBug) -> Self {
        PassError::Bug(bug)
    }
}

/// Writes a graph in another form, for dumps; the DOT writer lives elsewhere.
pub type DumpHook = Arc<dyn Fn(&Graph) -> String + Send + Sync>;

/// Compares the graphs before and after a pass (named first); an error is a bug of that pass.
pub type ValidateHook = Arc<dyn Fn(&str, &Graph, &Graph) -> Result<(), String> + Send + Sync>;

/// What the pipeline may do and what it checks.
#[derive(Clone)]
pub struct PassOptions {
    /// Verify the graph after each pass, and that a pass that reports a change has made one. On in debug builds.
    pub verify: bool,
    /// Write each changed graph as text into this directory, as `NN-name.txt`.
    pub dump: Option<PathBuf>,
    /// Also write what this makes of the graph, as `NN-name.dot`.
    pub dot: Option<DumpHook>,
    /// Run only the passes of these names.
    pub only: Option<Vec<String>>,
    /// Apply at most this many rules in all; for bisecting.
    pub fuel: Option<u64>,
    /// Translation validation, called after each change.
    pub validate: Option<ValidateHook>,
    /// Where a bug leaves the graph that shows it.
    pub reproducer: Option<PathBuf>,
    /// Allow rules that hold only where no value is infinite or NaN.
    pub finite_only: bool,
    /// Allow rules that round differently.
    pub reassociate: bool,
    /// What graphs may grow to.
    pub limits: Limits,
}

impl Default for PassOptions {
    fn default() -> Self {
        PassOptions {
            verify: cfg!(debug_assertions),
            dump: None,
            dot: None,
            only: None,
            fuel: None,
            validate: None,
            reproducer: None,
            finite_only: false,
            reassociate: false,
            limits: Limits::default(),
        }
    }
}

impl PassOptions {
    /// Whether rules of this safety are applied.
    pub fn allows(&self, safety: Safety) -> bool {
        match safety {
            Safety::Exact | Safety::ZeroSign | Safety::Stabilizes => true,
            Safety::FiniteOnly => self.finite_only,
            Safety::Reassociates => self.reassociate,
        }
    }
}

impl fmt::Debug for PassOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PassOptions")
            .field("verify", &self.verify)
            .field("dump", &self.dump)
            .field("dot", &self.dot.is_some())
            .field("only", &self.only)
            .field("fuel", &self.fuel)
            .field("validate", &self.validate.is_some())
            .field("reproducer", &self.reproducer)
            .field("finite_only", &self.finite_only)
            .field("reassociate", &self.reassociate)
            .field("limits", &self.limits)
            .finish()
    }
}

/// Why a loop of rules ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopReason {
    /// No rule applies any more.
    Fixpoint,
    /// The round limit was reached; the graph is right but could be simpler.
    RoundLimit,
    /// The fuel was used up.
    OutOfFuel,
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            StopReason::Fixpoint => "fixpoint",
            StopReason::RoundLimit => "round limit",
            StopReason::OutOfFuel => "out of fuel",
        })
    }
}

/// What a pass is told, and where it keeps count.
pub struct PassCx<'a> {
    /// The options.
    pub options: &'a PassOptions,
    /// Rule applications left.
    pub fuel: u64,
    /// How often each rule was applied by this pass.
    pub counters: BTreeMap<&'static str, u64>,
    /// Sweeps over the graph made by this pass.
    pub rounds: u32,
    /// Why the pass's rules ended, if it has rules.
    pub stop: Option<StopReason>,
    /// Nodes made in the sweep under way, over the graph and its bodies.
    n_made: usize,
}

impl<'a> PassCx<'a> {
    /// Nothing counted yet.
    pub fn new(options: &'a PassOptions) -> Self {
        let fuel = options.fuel.unwrap_or(u64::MAX);
        PassCx { options, fuel, counters: BTreeMap::new(), rounds: 0, stop: None, n_made: 0 }
    }

    /// Begins a sweep over a graph and its bodies. What each sweep makes is limited by itself: it makes all that is left of
    /// the graph anew.
    pub fn begin(&mut self) {
        self.n_made = 0;
    }

    /// A builder of what becomes of a graph, which counts the nodes that are made in this sweep.
    pub fn builder(&self, graph: &Graph) -> GraphBuilder {
        let builder = GraphBuilder::like(graph);
        builder.count_from(self.n_made, self.options.limits);
        builder
    }

    /// Ends a sweep that has made too many nodes; `node` is the one that was replaced last.
    ///
    /// # Errors
    /// `E0116` if it has.
    pub fn check_room(&self, builder: &GraphBuilder, node: &Node) -> Result<(), PassError> {
        match builder.is_full() {
            true => Err(self.options.limits.too_many_nodes(node.origin.loc()).into()),
            false => Ok(()),
        }
    }

    /// Counts what a builder of this sweep has made.
    pub fn note_made(&mut self, builder: &GraphBuilder) {
        self.n_made = builder.n_made();
    }

    /// The graph that a builder of this sweep has made.
    ///
    /// # Errors
    /// What `ill_typed` says if something in it is ill typed.
    pub fn finish(&mut self, builder: GraphBuilder, pass: &str) -> Result<Graph, PassError> {
        self.note_made(&builder);
        let too_large = builder.error_of(Code::TooLarge);
        builder.into_graph().map_err(|diags| ill_typed(too_large, pass, diags.to_string()))
    }

    /// Counts one application of a rule.
    pub fn count(&mut self, rule: &'static str) {
        *self.counters.entry(rule).or_insert(0) += 1;
    }
}

/// The error where a pass has made what is ill typed: a bug, unless something in it would be too large, for an op whose result is
/// small enough may be made of what is not, as windows of a tensor with a huge border are.
pub(crate) fn ill_typed(too_large: Option<Diag>, pass: &str, text: String) -> PassError {
    too_large.map_or_else(|| CompilerBug::new(pass, text).into(), PassError::from)
}

/// What a pass did, over all its runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassReport {
    /// The pass.
    pub name: &'static str,
    /// Nodes before its first run.
    pub before: usize,
    /// Nodes after its last run.
    pub after: usize,
    /// Whether it changed anything.
    pub changed: bool,
    /// Time spent, in microseconds.
    pub micros: u64,
    /// Sweeps over the graph.
    pub rounds: u32,
    /// Why its rules ended, if it has rules.
    pub stop: Option<StopReason>,
    /// How often each rule was applied, by name.
    pub rules: BTreeMap<&'static str, u64>,
}

impl fmt::Display for PassReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<14} {:>6} -> {:<6} nodes {:>7} us", self.name, self.before, self.after, self.micros)?;
        if let Some(stop) = self.stop {
            write!(f, "  {} rounds ({stop})", self.rounds)?;
        }
        for (rule, n) in &self.rules {
            write!(f, "  {rule}:{n}")?;
        }
        Ok(())
    }
}

/// What a rule preserves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Safety {
    /// Every bit (of NaNs only that they are NaNs).
    Exact,
    /// Every value; a zero may change its sign.
    ZeroSign,
    /// The value, more accurately or without overflow.
    Stabilizes,
    /// The value where nothing is infinite or NaN. Off unless asked for.
    FiniteOnly,
    /// The value up to rounding. Off unless asked for.
    Reassociates,
}

impl fmt::Display for Safety {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Safety::Exact => "exact",
            Safety::ZeroSign => "zero sign",
            Safety::Stabilizes => "stabilizes",
            Safety::FiniteOnly => "finite only",
            Safety::Reassociates => "reassociates",
        })
    }
}
