//! Faults at random: a seed says which, and where. A few seeds always; with `DWCP_LONG` a thousand new
//! ones, and with `DWCP_SEED` that one alone.

use std::collections::VecDeque;
use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dwcp::Backend;

use super::matrix::{killing, stopping};
use super::pair::{Kind, NEVER, Outcome, PEER_TIMEOUT, Pair, Timers};
use super::workers::{self, Job};
use crate::support::fault_proxy::random::Random;
use crate::support::fault_proxy::{Fault, Rule, Way};

/// Seeds that are always run.
const ALWAYS: u64 = 16;
const LONG: u64 = 1_000;

/// Messages from a source, by how likely they are chosen; some come only after another fault.
const FORTH: [&str; 14] = [
    "prepare",
    "attach",
    "pages",
    "pages",
    "zeros",
    "round_end",
    "state",
    "state",
    "commit",
    "commit",
    "commit",
    "done",
    "resolve",
    "revoke",
];
/// Those that come only where the switch comes first, or also after it.
const FORTH_LATE: [&str; 7] = [
    "missing",
    "pages",
    "pages",
    "pages",
    "round_end",
    "attach",
    "done",
];
/// Messages from a destination.
const BACK: [&str; 11] = [
    "prepared", "attached", "ack", "ready", "ready", "running", "running", "pending", "resolve",
    "refused", "taken",
];

const BACK_LATE: [&str; 5] = ["want", "want", "ack", "attached", "missing"];

pub(crate) struct Seed(Kind, u64);

/// What may have happened to the nodes.
#[derive(Default)]
struct Plan {
    rules: Vec<Rule>,
    text: String,
    source_dies: bool,
    destination_dies: bool,
    /// Faults for which something has to be waited for.
    waits: usize,
}

impl Seed {
    fn plan(&self, pair: &Pair, timers: &Timers) -> Plan {
        let Seed(kind, seed) = *self;
        let mut random = Random::new(seed);
        let mut plan = Plan::default();
        for _ in 0..1 + random.below(4) {
            let forth = random.below(2) == 0;
            let late = kind == Kind::PostCopy && random.below(3) > 0;
            let names: &[&str] = match (forth, late) {
                (true, false) => &FORTH,
                (true, true) => &FORTH_LATE,
                (false, false) => &BACK,
                (false, true) => &BACK_LATE,
            };
            let way = match forth {
                true => pair.forth(),
                false => pair.forth().back(),
            };
            let operation = *random.one(names);
            let nth = 1 + usize::try_from(random.below(2) * random.below(3)).unwrap();
            let fault = plan.fault(&mut random, pair, timers);
            let arrow = if forth { "->" } else { "<-" };
            let mut rule = Rule::at(way, operation, fault.1).nth(nth);
            let mut when = "";
            // What is announced late comes before the switch, what is missed after it.
            if late && (operation, forth) != ("missing", true) {
                rule = rule.after(pair.forth().back(), "running");
                when = "late ";
            }
            write!(plan.text, " [{arrow} {when}{operation} {nth}: {}]", fault.0).unwrap();
            plan.rules.push(rule);
        }
        plan
    }
}

impl Plan {
    /// A fault, and what it is called.
    fn fault(&mut self, random: &mut Random, pair: &Pair, timers: &Timers) -> (String, Fault) {
        let (source, destination) = (pair.process(pair.at), pair.process(1 - pair.at));
        let ways = [pair.forth(), pair.forth().back()];
        // Short, about the time-out, or long.
        let most = u64::try_from((PEER_TIMEOUT * 5 / 2).as_millis()).unwrap();
        let time = Duration::from_millis(random.below(most));
        let way = *random.one(&ways);
        let name = ["forth", "back"][usize::from(way == ways[1])];
        let choice = random.below(13);
        self.waits += usize::from(!matches!(choice, 0..=2 | 7));
        match choice {
            0 => ("cut".into(), Fault::Cut),
            1 => ("reset".into(), Fault::Reset),
            2 => {
                let bytes = usize::try_from(random.below(200)).unwrap();
                (format!("cut after {bytes}"), Fault::CutWithin(bytes))
            }
            3 | 4 => (format!("close {name}"), Fault::HalfClose(way)),
            5 | 6 => ("drop".into(), Fault::Drop),
            7 => ("double".into(), Fault::Duplicate),
            8 => (format!("delay {time:?}"), Fault::Delay(time)),
            9 => {
                let fault = muting(pair, way, time, timers);
                (format!("lose all {name} for {time:?}"), fault)
            }
            10 if !self.source_dies => {
                self.source_dies = true;
                ("kill the source".into(), killing(pair, source))
            }
            11 if !self.destination_dies => {
                self.destination_dies = true;
                ("kill the destination".into(), killing(pair, destination))
            }
            more => {
                let (who, process) = match more % 2 {
                    0 => ("source", source),
                    _ => ("destination", destination),
                };
                (
                    format!("stop the {who} for {time:?}"),
                    stopping(process, time, timers),
                )
            }
        }
    }
}

/// All that goes that way is lost for a while.
fn muting(pair: &Pair, way: Way, time: Duration, timers: &Timers) -> Fault {
    let (proxy, timers) = (Arc::clone(&pair.proxy), Arc::clone(timers));
    Fault::Before(Box::new(move || {
        proxy.mute(way, true);
        timers.lock().unwrap().push(std::thread::spawn(move || {
            // The fault is the time itself.
            std::thread::sleep(time);
            proxy.mute(way, false);
        }));
    }))
}

impl Job for Seed {
    fn name(&self) -> String {
        format!("DWCP_SEED={}", self.1)
    }

    async fn run(&self, pair: &mut Pair) -> Result<String, String> {
        let timers = Timers::default();
        pair.proxy.take_seen();
        let plan = self.plan(pair, &timers);
        for rule in plan.rules {
            pair.proxy.rule(rule);
        }
        let run = async {
            let stamps = pair.watch();
            let migration = pair.begin().await;
            let outcome = pair.settle(migration.as_deref(), &timers, false).await?;
            let allowed = match outcome {
                Outcome::RunsAtSource | Outcome::RunsAtDestination => true,
                Outcome::FailedAtSource => plan.source_dies,
                // Pages that do not come in time are lost by time alone; that takes more than one of these.
                Outcome::FailedAtDestination => {
                    let Seed(kind, _) = *self;
                    let late = kind == Kind::PostCopy && (plan.source_dies || plan.waits > 1);
                    plan.destination_dies || late
                }
            };
            let told = pair
                .told(migration.as_deref(), outcome, plan.waits > 1)
                .await;
            pair.check(outcome, stamps).await?;
            told?;
            if !allowed {
                return Err(format!("{NEVER}{outcome:?}, and nobody was killed there"));
            }
            Ok(outcome)
        };
        match run.await {
            Ok(outcome) => Ok(format!("{outcome:?} {}", plan.text)),
            Err(why) => Err(format!("{why};{}", plan.text)),
        }
    }
}

pub(crate) async fn runs(backend: Backend, kind: Kind) {
    let seeds: VecDeque<Seed> = if let Ok(seed) = std::env::var("DWCP_SEED") {
        VecDeque::from([Seed(kind, seed.parse().unwrap())])
    } else if std::env::var("DWCP_LONG").is_ok_and(|long| long == "1") {
        // Others each time: any of them can be run again.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let first = now.as_secs() << 16;
        (first..first + LONG).map(|seed| Seed(kind, seed)).collect()
    } else {
        let always = match kind {
            Kind::PreCopy => ALWAYS,
            Kind::PostCopy => 6,
            // What they meet of the hand-over is the same.
            Kind::SameHost => ALWAYS / 4,
        };
        (1..=always).map(|seed| Seed(kind, seed)).collect()
    };
    workers::all(backend, kind, seeds).await;
}
