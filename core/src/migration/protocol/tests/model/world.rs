//! Three nodes, their stores, their disks' locks and the wires between them, as plain data.
//!
//! There is one VM, which begins at the first node. A session is one migration of it: the two state
//! machines of production, and what their drivers and stores hold for them. The ledgers are those of
//! production too. What is written here of stores, wires, locks and guests is all that is the model's.

use std::fmt;
use std::hash::{Hash, Hasher};

use super::super::super::Mutant;
use super::super::super::destination::{Destination, DestinationOutcome, Verdict};
use super::super::super::ledger::Ledger;
use super::super::super::message::{Body, Message, Prepare};
use super::super::super::source::{Record, Source, SourceInput, SourceOutcome};
use super::super::{EPOCH, offer};

/// The stores' UUIDs.
const NODES: [&str; 3] = ["s", "d", "e"];
/// The sessions' ids.
const SESSIONS: [&str; 3] = ["m", "n", "o"];

/// What a world is made of, which never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::migration::protocol::tests) struct Config {
    /// The migrations that operators ask for, in this order, each as soon as it is legal.
    pub(in crate::migration::protocol::tests) plan: &'static [(usize, usize)],
    /// What is done before READY is done at once and does not fail, so that what comes after it can
    /// be tried in more orders.
    pub(in crate::migration::protocol::tests) brisk: bool,
    /// There are disks, which only one node at a time can lock.
    pub(in crate::migration::protocol::tests) disks: bool,
    pub(in crate::migration::protocol::tests) mutant: Option<Mutant>,
    /// Only this rule counts: what does a mutant lead to that nothing else stops?
    pub(in crate::migration::protocol::tests) heed: Option<Rule>,
}

impl Config {
    pub(super) fn heeds(&self, rule: Rule) -> bool {
        self.heed.is_none_or(|heeded| heeded == rule)
    }
}

/// The same in all worlds of a search.
impl Hash for Config {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

/// One migration, on one VM.
impl Default for Config {
    fn default() -> Self {
        Self {
            plan: &[(0, 1)],
            brisk: false,
            disks: true,
            mutant: None,
            heed: None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::migration::protocol::tests) enum Side {
    Source,
    Destination,
}

/// An effect that takes time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::migration::protocol::tests) enum Job {
    Attach,
    Copy,
    Pause,
    SendState,
    Record(Record),
    Relock,
    Resume,
    /// Whether the ledger accepted the epoch.
    Build(bool),
    Receive,
    Load,
    Lock,
    Verdict(Verdict),
    Run,
}

impl Job {
    /// Whether it writes something that a crash may lose, or not.
    pub(super) fn writes(&self) -> bool {
        matches!(self, Self::Record(_) | Self::Verdict(_) | Self::Build(true))
    }
}

/// How a job ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::migration::protocol::tests) enum End {
    Done,
    Failed,
    /// Reported as failed, yet the store has it.
    FailedButWritten,
}

/// One side of a session: what its driver holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub(in crate::migration::protocol::tests) struct Seat {
    /// Jobs under way; those that were told to stop may still report.
    pub(in crate::migration::protocol::tests) jobs: Vec<(Job, bool)>,
    pub(in crate::migration::protocol::tests) timer: bool,
    /// What the node thinks of the wire.
    pub(in crate::migration::protocol::tests) up: bool,
}

impl Seat {
    pub(super) fn stop(&mut self, which: impl Fn(&Job) -> bool) {
        for (job, stopped) in &mut self.jobs {
            *stopped |= which(job);
        }
    }
}

/// What a node consists of besides its sessions.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub(in crate::migration::protocol::tests) struct Node {
    /// Whose copy of the VM is here: 0 for the first, else the session's number and 1.
    pub(in crate::migration::protocol::tests) copy: Option<usize>,
    pub(in crate::migration::protocol::tests) runs: bool,
    pub(in crate::migration::protocol::tests) locked: bool,
    pub(super) ledger: Ledger,
    /// As it is after a crash.
    pub(super) stored: Ledger,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::migration::protocol::tests) struct Session {
    pub(in crate::migration::protocol::tests) from: usize,
    pub(in crate::migration::protocol::tests) to: usize,
    pub(super) epoch: u64,
    pub(super) source: Source,
    /// Nobody, before the offer and after a crash.
    pub(super) destination: Option<Destination>,
    pub(in crate::migration::protocol::tests) s: Seat,
    pub(in crate::migration::protocol::tests) d: Seat,
    pub(super) state_sent: bool,
    /// What the stores say.
    pub(in crate::migration::protocol::tests) record: Option<Record>,
    pub(in crate::migration::protocol::tests) verdict: Option<Verdict>,
    /// Whether the nodes were told that this is durable.
    pub(super) record_known: bool,
    pub(super) verdict_known: bool,
    /// The verdict that was forgotten.
    pub(super) forgot: Option<Verdict>,
    pub(in crate::migration::protocol::tests) s_end: Option<SourceOutcome>,
    pub(in crate::migration::protocol::tests) d_end: Option<DestinationOutcome>,
    /// The source's node may begin another migration.
    pub(super) over: bool,
    /// Somebody waits for the VM to stay, to destroy it.
    pub(super) doomed: bool,
    /// What an observer of both nodes remembers.
    pub(super) built: bool,
    pub(super) ready: bool,
    pub(super) resumed: bool,
    pub(super) ran: bool,
    pub(super) outlived: bool,
}

/// Something on the wire, in the order of its key, which only makes worlds comparable.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::migration::protocol::tests) struct Packet {
    pub(super) key: u64,
    pub(super) session: usize,
    pub(super) to: Side,
    pub(in crate::migration::protocol::tests) body: Body,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::migration::protocol::tests) struct World {
    pub(super) config: Config,
    pub(in crate::migration::protocol::tests) nodes: [Node; 3],
    pub(in crate::migration::protocol::tests) sessions: Vec<Session>,
    pub(in crate::migration::protocol::tests) net: Vec<Packet>,
    /// See [`wire`].
    pub(super) wires: [bool; 3],
    /// A crash took the VM from the node that had it, as the table of losses says, or somebody
    /// destroyed it.
    pub(in crate::migration::protocol::tests) excused: bool,
    /// An operator's force was obeyed: two may run until they have heard of each other.
    pub(in crate::migration::protocol::tests) forced: bool,
    pub(super) destroyed: bool,
    /// A source has asked for disks that it had given up.
    pub(super) relocked: bool,
    pub(super) broken: Option<Broken>,
}

/// The rules of a hand-over: the properties of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::migration::protocol::tests) enum Rule {
    OneRunner,
    NeverBack,
    Force,
    Locks,
    Said,
    Once,
    Lost,
    Resolved,
}

/// A rule that was broken, and how.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::migration::protocol::tests) struct Broken {
    pub(in crate::migration::protocol::tests) rule: Rule,
    pub(in crate::migration::protocol::tests) how: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.rule, self.how)
    }
}

/// Breaks a rule unless the condition is true, or the search heeds another rule only.
macro_rules! hold {
    ($world:ident, $rule:ident, $condition:expr, $($text:tt)+) => {
        if !$condition && $world.config.heeds($crate::migration::protocol::tests::model::world::Rule::$rule) {
            return Err($crate::migration::protocol::tests::model::world::Broken {
                rule: $crate::migration::protocol::tests::model::world::Rule::$rule,
                how: format!($($text)+),
            });
        }
    };
}
pub(super) use hold;

/// The number of the wire between two nodes.
pub(super) fn wire(one: usize, other: usize) -> usize {
    one + other - 1
}

impl World {
    /// A VM runs at the first node, and its first migration has just begun.
    pub(in crate::migration::protocol::tests) fn new(config: Config) -> Self {
        let ledger = |last| {
            let mut ledger = Ledger::stored(last);
            ledger.mutant = config.mutant;
            ledger
        };
        let mut nodes = [0, 1, 2].map(|_| Node {
            ledger: ledger(0),
            stored: ledger(0),
            ..Node::default()
        });
        nodes[0] = Node {
            copy: Some(0),
            runs: true,
            locked: config.disks,
            ledger: ledger(EPOCH - 1),
            stored: ledger(EPOCH - 1),
        };
        let mut world = Self {
            config,
            nodes,
            sessions: Vec::new(),
            net: Vec::new(),
            wires: [true; 3],
            excused: false,
            forced: false,
            destroyed: false,
            relocked: false,
            broken: None,
        };
        world.migrate().expect("it may begin");
        world
    }

    /// Begins the next migration of the plan. That its epoch is durable before anybody hears of it is
    /// the driver's business: until then nothing has begun.
    pub(super) fn migrate(&mut self) -> Result<(), Broken> {
        let k = self.sessions.len();
        let (from, to) = self.config.plan[k];
        let node = &mut self.nodes[from];
        let epoch = node.ledger.burn().expect("there are enough");
        node.stored = node.ledger.clone();
        let prepare = Prepare {
            source_uuid: NODES[from].into(),
            ..offer()
        };
        let mut source = Source::new(SESSIONS[k].into(), epoch, prepare);
        source.mutant = self.config.mutant;
        self.sessions.push(Session {
            from,
            to,
            epoch,
            source,
            destination: None,
            s: Seat {
                up: true,
                ..Seat::default()
            },
            d: Seat::default(),
            state_sent: false,
            record: None,
            verdict: None,
            record_known: false,
            verdict_known: false,
            forgot: None,
            s_end: None,
            d_end: None,
            over: false,
            doomed: false,
            built: false,
            ready: false,
            resumed: false,
            ran: false,
            outlived: false,
        });
        self.tell_source(k, SourceInput::Start)
    }

    /// Whether the next migration of the plan may be asked for. While one is under way or unresolved
    /// at its node, that is refused.
    pub(super) fn can_migrate(&self) -> bool {
        let next = self.config.plan.get(self.sessions.len());
        next.is_some_and(|&(from, to)| {
            self.is_ready(from) && self.is_free(from) && self.wires[wire(from, to)]
        })
    }

    pub(super) fn runners(&self) -> usize {
        self.nodes.iter().filter(|node| node.runs).count()
    }

    pub(super) fn runs(&self, node: usize) -> bool {
        self.is_ready(node)
    }

    /// Whether the VM runs at this node, and the node was told so.
    pub(super) fn is_ready(&self, node: usize) -> bool {
        let starts = |s: &Session| s.d.jobs.contains(&(Job::Run, false));
        self.nodes[node].runs && !self.sessions.iter().any(|s| s.to == node && starts(s))
    }

    /// Whether no migration holds the VM at this node.
    pub(super) fn is_free(&self, node: usize) -> bool {
        self.sessions.iter().all(|s| s.over || s.from != node)
    }

    /// Whether work is under way that will end by itself.
    pub(super) fn is_busy(&self) -> bool {
        let busy = |k: usize, seat: &Seat| {
            let mut jobs = seat.jobs.iter();
            jobs.any(|(job, stopped)| self.can_finish(k, job, *stopped))
        };
        let mut sessions = self.sessions.iter().enumerate();
        sessions.any(|(k, session)| busy(k, &session.s) || busy(k, &session.d))
    }

    pub(super) fn seat(&mut self, k: usize, side: Side) -> &mut Seat {
        match side {
            Side::Source => &mut self.sessions[k].s,
            Side::Destination => &mut self.sessions[k].d,
        }
    }

    pub(super) fn uuid(node: usize) -> String {
        NODES[node].into()
    }

    pub(super) fn message(&self, k: usize, body: Body) -> Message {
        Message {
            session: SESSIONS[k].into(),
            epoch: self.sessions[k].epoch,
            body,
        }
    }

    /// A destination for a session: a new one, or one from what the store says.
    pub(super) fn destination(&self, k: usize, new: bool) -> Destination {
        let session = &self.sessions[k];
        let (id, epoch) = (SESSIONS[k].into(), session.epoch);
        let (own, source) = (Self::uuid(session.to), Self::uuid(session.from));
        let mut destination = if new {
            Destination::new(id, epoch, own, source)
        } else {
            Destination::recovered(id, epoch, own, source, session.verdict.as_ref())
        };
        destination.mutant = self.config.mutant;
        destination
    }

    /// A source from what the store says.
    pub(super) fn recovered_source(&self, k: usize) -> Source {
        let session = &self.sessions[k];
        let record = session.record.clone();
        let mut source = Source::recovered(SESSIONS[k].into(), session.epoch, record);
        source.mutant = self.config.mutant;
        source
    }

    /// Whether a node's own store says that it has the VM.
    pub(super) fn owns(&self, node: usize) -> bool {
        let mut owns = node == 0;
        for session in &self.sessions {
            let taken = Some(Verdict::Taken {
                epoch: session.epoch,
            });
            if session.to == node && [&session.verdict, &session.forgot].contains(&&taken) {
                owns = true;
            }
            if session.from == node {
                match &session.record {
                    Some(Record::Granted { .. } | Record::Released { .. }) => owns = false,
                    Some(Record::Forced { .. }) => owns = true,
                    _ => {}
                }
            }
        }
        owns
    }

    /// What holds at every moment.
    pub(super) fn check(&self) -> Result<(), Broken> {
        let count = |has: fn(&Node) -> bool| self.nodes.iter().filter(|node| has(node)).count();
        hold!(
            self,
            OneRunner,
            self.forced || count(|node| node.runs) < 2,
            "two runners"
        );
        hold!(
            self,
            Locks,
            count(|node| node.locked) < 2,
            "two hold the disks"
        );
        hold!(
            self,
            Locks,
            !self.config.disks || count(|node| node.runs && !node.locked) == 0,
            "one runs without its disks"
        );
        Ok(())
    }
}
