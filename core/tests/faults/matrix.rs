//! Every message boundary of a hand-over, and everything that can go wrong there.
//!
//! What is expected is what the design says, not what the code does: before the grant the VM stays, or
//! is failed with its source; after it the VM is the destination's once that took it; and there is
//! never a second one.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use dwcp::Backend;

use super::pair::{Kind, MAX_DOWNTIME, Outcome, PEER_TIMEOUT, Pair, Timers, kill, signal, stop};
use super::workers::{self, Job};
use crate::support::fault_proxy::{Fault, Rule, Way};

use Outcome::{FailedAtDestination, FailedAtSource, RunsAtDestination, RunsAtSource};

/// A message that a fault comes before.
#[derive(Clone, Copy, Debug)]
struct Boundary {
    way: Way,
    message: &'static str,
    time: Time,
    /// On this bulk channel only.
    channel: Option<u32>,
}

/// Which of the messages of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Time {
    /// The first.
    First,
    /// The first one after RUNNING.
    Late,
    /// The same, and a bulk channel was lost over which pages were on their way then.
    Again,
}

// As if A were the source.
use Way::{AToB as Forth, BToA as Back};

/// The boundaries of every hand-over: by the way that the message goes (forth: from the source) and its name.
const BOUNDARIES: [Boundary; 12] = [
    first(Forth, "prepare"),
    first(Back, "prepared"),
    first(Forth, "attach"),
    first(Back, "attached"),
    first(Forth, "pages"),
    first(Forth, "round_end"),
    first(Back, "ack"),
    first(Forth, "state"),
    first(Back, "ready"),
    first(Forth, "commit"),
    first(Back, "running"),
    first(Forth, "done"),
];

/// Those of a switch that comes first: what is to come late is said before it, the first channel carries what the
/// guest waits for and what it asks for, the second the rest.
const LATE: [Boundary; 11] = [
    first(Forth, "missing"),
    late(Back, "want", 0),
    late(Forth, "pages", 0),
    late(Forth, "pages", 1),
    late(Forth, "round_end", 0),
    late(Back, "ack", 0),
    late(Forth, "round_end", 1),
    late(Back, "ack", 1),
    again(Forth, "attach"),
    again(Back, "attached"),
    again(Back, "missing"),
];

const fn first(way: Way, message: &'static str) -> Boundary {
    Boundary {
        way,
        message,
        time: Time::First,
        channel: None,
    }
}

const fn late(way: Way, message: &'static str, channel: u32) -> Boundary {
    Boundary {
        way,
        message,
        time: Time::Late,
        channel: Some(channel),
    }
}

const fn again(way: Way, message: &'static str) -> Boundary {
    Boundary {
        way,
        message,
        time: Time::Again,
        channel: Some(1),
    }
}

impl Boundary {
    /// A fault before the message, in a pair of which this node is the source.
    fn rule(&self, forth: Way, fault: Fault) -> Rule {
        let rule = Rule::at(self.turned(forth), self.message, fault);
        let rule = match self.time {
            Time::First => rule,
            Time::Late | Time::Again => rule.after(forth.back(), "running"),
        };
        match self.channel {
            Some(channel) => rule.on(channel),
            None => rule,
        }
    }

    /// Its way where the source is not A.
    fn turned(&self, forth: Way) -> Way {
        match self.way {
            Forth => forth,
            Back => forth.back(),
        }
    }
}

impl fmt::Display for Boundary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = match self.time {
            Time::First => "",
            Time::Late => "late ",
            Time::Again => "again ",
        };
        let channel = self.channel.map(|number| format!("/{number}"));
        let name = format!("{time}{}{}", self.message, channel.unwrap_or_default());
        write!(f, "{name:<16}")
    }
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Harm {
    Cut,
    CutForth,
    CutBack,
    Drop,
    Duplicate,
    /// Past every time-out that counts on the message.
    Delay,
    KillSource,
    KillDestination,
    /// Stopped past the time in which it is missed, then continued.
    StopSource,
    StopDestination,
    /// Stopped past the time in which pages are missed.
    LoseSource,
    LoseDestination,
}

use Harm::{
    Cut, CutBack, CutForth, Delay, Drop, Duplicate, KillDestination, KillSource, LoseDestination,
    LoseSource, StopDestination, StopSource,
};

const HARMS: [Harm; 10] = [
    Cut,
    CutForth,
    CutBack,
    Drop,
    Duplicate,
    Delay,
    KillSource,
    KillDestination,
    StopSource,
    StopDestination,
];

const STAYS: &[Outcome] = &[RunsAtSource];
const MOVES: &[Outcome] = &[RunsAtDestination];
const EITHER: &[Outcome] = &[RunsAtSource, RunsAtDestination];
const LOST: &[Outcome] = &[FailedAtDestination];

/// How a migration must end of which all memory comes before the switch.
fn expected(boundary: &str, harm: Harm) -> &'static [Outcome] {
    let granted = matches!(boundary, "commit" | "running" | "done");
    let taken = matches!(boundary, "running" | "done");
    match (boundary, harm) {
        // Who is lost when a process is killed.
        (_, KillSource) if !granted => &[FailedAtSource],
        (_, KillSource) => MOVES,
        (_, KillDestination) if !taken => STAYS,
        (_, KillDestination) => LOST,
        // After the grant all is asked for until it is known, and nothing was lost but words.
        _ if granted => MOVES,
        // READY that was said twice, or is asked for again.
        ("ready", Duplicate | Drop) => MOVES,
        // The source hears READY before it finds that it is not heard; the destination waits.
        ("ready", CutForth) => MOVES,
        // The source has READY in hand; the destination is stopped, and continues.
        ("ready", StopDestination) => MOVES,
        // READY and the end of the connection wait for the source together.
        ("state" | "ready", StopSource) => EITHER,
        // Nothing more is expected on that way.
        ("state", CutBack) => MOVES,
        // What is delivered twice is heard once.
        ("prepare" | "prepared" | "state", Duplicate) => MOVES,
        _ => STAYS,
    }
}

/// How one must end of which the switch comes first: until all memory has come, the VM is lost with either node. No
/// channel is needed for good.
fn expected_late(boundary: &Boundary, harm: Harm) -> &'static [Outcome] {
    match (boundary.time, boundary.message, harm) {
        // The memory that was to follow is gone.
        (Time::First, "commit" | "running", KillSource) => LOST,
        // A channel on which only wishes would come back: it is opened again, or the copy given up.
        (Time::First, "missing" | "state", CutBack) => EITHER,
        // A write that a full buffer keeps waiting has done a part of it, and has its time anew.
        (Time::First, "pages", Delay) => EITHER,
        // All that follows until READY is said without waiting.
        (Time::First, "missing", StopSource) => EITHER,
        (Time::First, message, _) => expected(message, harm),
        // Over the other channel all may have come.
        (Time::Late, "round_end" | "ack", KillSource | LoseSource | LoseDestination) => {
            &[RunsAtDestination, FailedAtDestination]
        }
        (_, _, KillSource | KillDestination | LoseSource | LoseDestination) => LOST,
        _ => MOVES,
    }
}

struct Case {
    kind: Kind,
    boundary: Boundary,
    harm: Harm,
}

/// The rules that do it, between a source and a destination.
fn rules(pair: &Pair, case: &Case, timers: &Timers) -> Vec<Rule> {
    let forth = pair.forth();
    let (source, destination) = (pair.process(pair.at), pair.process(1 - pair.at));
    let fault = match case.harm {
        Cut => Fault::Cut,
        CutForth => Fault::HalfClose(forth),
        CutBack => Fault::HalfClose(forth.back()),
        Drop => Fault::Drop,
        Duplicate => Fault::Duplicate,
        Delay => Fault::Delay(past_time_out(case.boundary.message)),
        KillSource => killing(pair, source),
        KillDestination => killing(pair, destination),
        StopSource => stopping(source, PEER_TIMEOUT * 5 / 2, timers),
        StopDestination => stopping(destination, PEER_TIMEOUT * 5 / 2, timers),
        LoseSource => stopping(source, PEER_TIMEOUT * 8, timers),
        LoseDestination => stopping(destination, PEER_TIMEOUT * 8, timers),
    };
    let mut rules = vec![case.boundary.rule(forth, fault)];
    if case.boundary.time == Time::Again {
        rules.push(late(Forth, "pages", 1).rule(forth, Fault::Cut));
    }
    rules
}

/// A time after which nobody counts on a message any more.
fn past_time_out(boundary: &str) -> Duration {
    match boundary {
        // The limit on downtime, also for what was said before the pause on the same channel.
        "state" | "missing" => MAX_DOWNTIME + PEER_TIMEOUT,
        // Pages that are on their way have three times as long.
        "pages" | "round_end" | "ack" => PEER_TIMEOUT * 4,
        _ => PEER_TIMEOUT * 5 / 2,
    }
}

/// Kills a node.
pub(crate) fn killing(pair: &Pair, process: u32) -> Fault {
    let killed = Arc::clone(&pair.killed);
    Fault::Before(Box::new(move || {
        kill(process);
        killed.lock().unwrap().push(process);
    }))
}

/// Stops a node, and lets it continue after a while.
pub(crate) fn stopping(process: u32, time: Duration, timers: &Timers) -> Fault {
    let timers = Arc::clone(timers);
    Fault::Before(Box::new(move || {
        stop(process);
        timers.lock().unwrap().push(std::thread::spawn(move || {
            // The fault is the time itself.
            std::thread::sleep(time);
            signal(process, "CONT");
        }));
    }))
}

impl Job for Case {
    fn name(&self) -> String {
        format!("{} {:?}", self.boundary, self.harm)
    }

    async fn run(&self, pair: &mut Pair) -> Result<String, String> {
        let timers = Timers::default();
        pair.proxy.take_seen();
        for rule in rules(pair, self, &timers) {
            pair.proxy.rule(rule);
        }
        let stamps = pair.watch();
        let migration = pair.begin().await;
        let outcome = pair.settle(migration.as_deref(), &timers, true).await?;
        let expected = match self.kind {
            Kind::PostCopy => expected_late(&self.boundary, self.harm),
            Kind::PreCopy | Kind::SameHost => expected(self.boundary.message, self.harm),
        };
        let unsure = [RunsAtDestination, FailedAtDestination].map(|one| expected.contains(&one));
        let told = pair
            .told(migration.as_deref(), outcome, unsure == [true; 2])
            .await;
        let seen = pair.check(outcome, stamps).await?;
        told?;
        if !expected.contains(&outcome) {
            return Err(format!("{outcome:?}, and not {expected:?}: {seen:?}"));
        }
        Ok(format!(
            "{outcome:?} after {} looks, {} copies",
            seen.looks, seen.copies
        ))
    }
}

/// All cases, on a back end.
pub(crate) async fn whole(backend: Backend) {
    run(backend, Kind::PreCopy, &BOUNDARIES, &HARMS, |_| true).await;
}

/// The same where the memory is handed over: nothing of it is sent, and all else is as it is. What differs by
/// who has the memory when, or all of it with `DWCP_LONG`.
pub(crate) async fn in_one_memory(backend: Backend) {
    let boundaries: Vec<Boundary> = BOUNDARIES
        .into_iter()
        .filter(|own| !matches!(own.message, "pages" | "round_end" | "ack"))
        .collect();
    let differs = |case: &Case| {
        matches!(
            case.boundary.message,
            "prepared" | "state" | "ready" | "commit" | "running"
        ) && matches!(
            case.harm,
            Cut | Drop | KillSource | KillDestination | StopSource | StopDestination
        )
    };
    run(backend, Kind::SameHost, &boundaries, &HARMS, differs).await;
}

/// The same where the switch comes first. What differs by that, or all of it with `DWCP_LONG`.
pub(crate) async fn after_the_switch(backend: Backend) {
    let boundaries = [&BOUNDARIES[..], &LATE].concat();
    let harms = [&HARMS[..], &[LoseSource, LoseDestination]].concat();
    let differs = |case: &Case| {
        let Case { boundary, harm, .. } = case;
        match (boundary.time, boundary.message, harm) {
            (Time::First, "missing", harm) => matches!(harm, Cut | Drop | Duplicate),
            (Time::First, "commit" | "running", harm) => {
                matches!(harm, KillSource | KillDestination)
            }
            (Time::First, ..) => false,
            (Time::Late, "pages", LoseSource | LoseDestination) => boundary.channel == Some(1),
            (Time::Late, "pages", harm) => {
                matches!(
                    harm,
                    Cut | CutBack | Drop | KillSource | KillDestination | StopSource
                )
            }
            (Time::Late, "want", harm) => matches!(harm, Cut | Drop),
            (Time::Late, _, harm) => boundary.channel == Some(1) && matches!(harm, Cut | Drop),
            (Time::Again, _, harm) => matches!(harm, Cut | Drop | Duplicate),
        }
    };
    run(backend, Kind::PostCopy, &boundaries, &harms, differs).await;
}

/// Every harm at every boundary: those cases whose names have in them what `DWCP_CASE` says, those that are
/// always run, or with `DWCP_LONG` all.
async fn run(
    backend: Backend,
    kind: Kind,
    boundaries: &[Boundary],
    harms: &[Harm],
    always: impl Fn(&Case) -> bool,
) {
    let only = std::env::var("DWCP_CASE");
    let long = std::env::var("DWCP_LONG").is_ok_and(|long| long == "1");
    let all = boundaries.iter().flat_map(|&boundary| {
        harms.iter().map(move |&harm| Case {
            kind,
            boundary,
            harm,
        })
    });
    let is_lost = |case: &Case| matches!(case.harm, LoseSource | LoseDestination);
    let cases = all.filter(|case| {
        // Before the switch that is no other harm than the shorter one.
        let is_one = !is_lost(case) || case.boundary.time != Time::First;
        is_one
            && match &only {
                Ok(only) => case.name().contains(only),
                Err(_) => long || always(case),
            }
    });
    workers::all(backend, kind, cases.collect()).await;
}
