//! Every message boundary of a hand-over, and everything that can go wrong there.
//!
//! What is expected is what the design says, not what the code does: before the grant the VM stays, or
//! is failed with its source; after it the VM is the destination's once that took it; and there is
//! never a second one.

use std::sync::Arc;
use std::time::Duration;

use dwcp::{Backend, SameHost};

use super::pair::{MAX_DOWNTIME, Outcome, PEER_TIMEOUT, Pair, Timers, kill, signal, stop};
use super::workers::{self, Job};
use crate::support::fault_proxy::{Fault, Rule, Way};

use Outcome::{FailedAtDestination, FailedAtSource, RunsAtDestination, RunsAtSource};

/// The boundaries: before this message, by the way it goes (forth: from the source) and its name.
const BOUNDARIES: [(Way, &str); 12] = {
    // As if A were the source.
    use Way::{AToB as Forth, BToA as Back};
    [
        (Forth, "prepare"),
        (Back, "prepared"),
        (Forth, "attach"),
        (Back, "attached"),
        (Forth, "pages"),
        (Forth, "round_end"),
        (Back, "ack"),
        (Forth, "state"),
        (Back, "ready"),
        (Forth, "commit"),
        (Back, "running"),
        (Forth, "done"),
    ]
};

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
}

use Harm::{
    Cut, CutBack, CutForth, Delay, Drop, Duplicate, KillDestination, KillSource, StopDestination,
    StopSource,
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

/// How a migration must end.
fn expected(boundary: &str, harm: Harm) -> &'static [Outcome] {
    const STAYS: &[Outcome] = &[RunsAtSource];
    const MOVES: &[Outcome] = &[RunsAtDestination];
    const EITHER: &[Outcome] = &[RunsAtSource, RunsAtDestination];
    let granted = matches!(boundary, "commit" | "running" | "done");
    let taken = matches!(boundary, "running" | "done");
    match (boundary, harm) {
        // Who is lost when a process is killed.
        (_, KillSource) if !granted => &[FailedAtSource],
        (_, KillSource) => MOVES,
        (_, KillDestination) if !taken => STAYS,
        (_, KillDestination) => &[FailedAtDestination],
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

struct Case {
    way: Way,
    boundary: &'static str,
    harm: Harm,
}

/// The rule that does it, between a source and a destination.
fn rule(pair: &Pair, case: &Case, timers: &Timers) -> Rule {
    let forth = pair.forth();
    let way = match case.way {
        Way::AToB => forth,
        Way::BToA => forth.back(),
    };
    let (source, destination) = (pair.process(pair.at), pair.process(1 - pair.at));
    let fault = match case.harm {
        Cut => Fault::Cut,
        CutForth => Fault::HalfClose(forth),
        CutBack => Fault::HalfClose(forth.back()),
        Drop => Fault::Drop,
        Duplicate => Fault::Duplicate,
        Delay => Fault::Delay(past_time_out(case.boundary)),
        KillSource => killing(pair, source),
        KillDestination => killing(pair, destination),
        StopSource => stopping(source, PEER_TIMEOUT * 5 / 2, timers),
        StopDestination => stopping(destination, PEER_TIMEOUT * 5 / 2, timers),
    };
    Rule::at(way, case.boundary, fault)
}

/// A time after which nobody counts on a message any more.
fn past_time_out(boundary: &str) -> Duration {
    match boundary {
        // The limit on downtime.
        "state" => MAX_DOWNTIME + PEER_TIMEOUT,
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
        format!("{:<10} {:?}", self.boundary, self.harm)
    }

    async fn run(&self, pair: &mut Pair) -> Result<String, String> {
        let timers = Timers::default();
        pair.proxy.take_seen();
        pair.proxy.rule(rule(pair, self, &timers));
        let stamps = pair.watch();
        let migration = pair.begin().await;
        let outcome = pair.settle(migration.as_deref(), &timers, true).await?;
        let seen = pair.check(outcome, stamps).await?;
        let expected = expected(self.boundary, self.harm);
        if !expected.contains(&outcome) {
            return Err(format!("{outcome:?}, and not {expected:?}: {seen:?}"));
        }
        Ok(format!(
            "{outcome:?} after {} looks, {} copies",
            seen.looks, seen.copies
        ))
    }
}

/// All cases, on a back end; or those whose names have in them what `DWCP_CASE` says.
pub(crate) async fn whole(backend: Backend) {
    let all = BOUNDARIES.iter().flat_map(|&(way, boundary)| {
        HARMS.iter().map(move |&harm| Case {
            way,
            boundary,
            harm,
        })
    });
    let only = std::env::var("DWCP_CASE").unwrap_or_default();
    let cases = all.filter(|case| case.name().contains(&only)).collect();
    workers::all(backend, SameHost::Never, cases).await;
}

/// The same where the memory is handed over: nothing of it is sent, and all else is as it is. What differs by
/// who has the memory when, or all of it with `DWCP_LONG`.
pub(crate) async fn in_one_memory(backend: Backend) {
    let long = std::env::var("DWCP_LONG").is_ok_and(|long| long == "1");
    let boundaries = BOUNDARIES
        .iter()
        .filter(|(_, message)| !matches!(*message, "pages" | "round_end" | "ack"));
    let boundaries = boundaries.filter(|(_, message)| {
        long || matches!(
            *message,
            "prepared" | "state" | "ready" | "commit" | "running"
        )
    });
    let harms = HARMS.iter().filter(|harm| {
        long || matches!(
            harm,
            Cut | Drop | KillSource | KillDestination | StopSource | StopDestination
        )
    });
    let all = boundaries.flat_map(|&(way, boundary)| {
        harms.clone().map(move |&harm| Case {
            way,
            boundary,
            harm,
        })
    });
    let only = std::env::var("DWCP_CASE").unwrap_or_default();
    let cases = all.filter(|case| case.name().contains(&only)).collect();
    workers::all(backend, SameHost::Require, cases).await;
}
