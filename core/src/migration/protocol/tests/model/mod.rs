//! The hand-over as a model for stateright: the state machines and the ledger of production, in a
//! world of nodes, stores, disks and wires in which everything goes wrong that may.
//!
//! A state is a [`World`](world::World) and what trouble is left. A step is one event of one node or
//! wire. The checker goes through all of them, breadth first, to the end: what bounds the search is
//! the trouble on each path (a message lost or doubled, a wire cut, a crash, a failed write, an
//! operator's order), not its length. Messages overtake each other and come as late as they like, and
//! the ordinary course interleaves in every order, at no cost.
//!
//! The properties are those of [`world::Rule`]. All but two are held at every effect of every step; a
//! step that breaks one leads to a state that says so. "Every run that heals ends resolved" and "no VM
//! is lost outside the table" are held by following, from every state, the calm moves
//! (`rest`) to the end. Stateright's own `eventually` sees no cycles and forgets at joins, as its
//! documentation says; calm moves have one successor each, so that following them misses nothing but
//! a run that would heal in another order.

mod effects;
mod explore;
mod moves;
mod mutants;
mod rest;
pub(super) mod world;

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model, Property};

pub(super) use moves::Move;
use world::{Broken, Config, Rule, World};

use super::super::destination::{DestinationOutcome, DiscardReason};
use super::super::source::{SourceOutcome, Why};

/// A search: where it begins and how much of it there is.
#[derive(Clone, Copy)]
pub(super) struct Search {
    pub(super) name: &'static str,
    pub(super) config: Config,
    /// What happens first, in this order.
    pub(super) begin: fn(&mut World),
    /// So many troubles on each path.
    pub(super) trouble: u8,
    /// Only wires break and nodes crash; nothing else is trouble.
    pub(super) outages: bool,
    /// So many times an operator forces on each path.
    pub(super) forces: u8,
    /// Nobody asks again while more messages than this are on their way: 0 where every back-off is
    /// longer than any message takes.
    pub(super) hurry: usize,
    /// Nor while anybody works.
    pub(super) idle: bool,
    /// Look whether each state comes to rest.
    pub(super) rest: bool,
    /// What must be met on the way.
    pub(super) sometimes: &'static [Sometimes],
}

/// An end that a search must meet, or it did not try what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sometimes {
    Moved,
    Stayed,
    Lost,
    Unresolved,
    Running,
    Refused,
    DestinationLost,
    Forced,
    Superseded,
    GaveWay,
    TwoRunAfterForce,
    HopsBack,
    OlderIsOutlived,
    Destroyed,
}

/// A world, and what may still happen to it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct State {
    world: World,
    trouble: u8,
    forces: u8,
}

/// The search as the checker sees it.
struct Handover {
    search: Search,
    /// Worlds of which is known that they come to rest as they should, and those that do not.
    restful: Mutex<HashSet<u64>>,
    restless: Mutex<HashMap<u64, Rule>>,
}

const ALWAYS: [(Rule, &str); 8] = [
    (Rule::OneRunner, "never two runners"),
    (
        Rule::NeverBack,
        "the guest never goes back to an older copy",
    ),
    (Rule::Force, "force only breaks what it may"),
    (Rule::Locks, "disk locks follow the runner"),
    (Rule::Said, "what is said is so"),
    (Rule::Once, "an epoch is used once and judged once"),
    (Rule::Lost, "no VM is lost outside the table"),
    (Rule::Resolved, "every run that heals ends resolved"),
];

impl Rule {
    pub(super) fn name(self) -> &'static str {
        let found = ALWAYS.iter().find(|(rule, _)| *rule == self);
        found.expect("every rule has a name").1
    }
}

fn holds(model: &Handover, state: &State, rule: Rule) -> bool {
    if let Some(broken) = &state.world.broken {
        return broken.rule != rule;
    }
    if !model.search.rest {
        return true;
    }
    // The first of the properties looks, the others find out.
    let fingerprint = fingerprint(&state.world);
    if rule == ALWAYS[0].0
        && let Err(broken) = model.comes_to_rest(&state.world)
    {
        let mut restless = model
            .restless
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        restless.insert(fingerprint, broken.rule);
    }
    let restless = model
        .restless
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    restless.get(&fingerprint) != Some(&rule)
}

macro_rules! always {
    ($($rule:ident)+) => {
        vec![$(Property::<Handover>::always(Rule::$rule.name(), |model, state| {
            holds(model, state, Rule::$rule)
        }),)+]
    };
}

macro_rules! sometimes {
    ($($end:ident: $name:literal;)+) => {
        [$((Sometimes::$end, Property::<Handover>::sometimes($name, |_, state| {
            state.world.meets(Sometimes::$end)
        })),)+]
    };
}

impl Model for Handover {
    type State = State;
    type Action = Move;

    fn init_states(&self) -> Vec<State> {
        let mut world = World::new(self.search.config);
        (self.search.begin)(&mut world);
        vec![State {
            world,
            trouble: self.search.trouble,
            forces: self.search.forces,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Move>) {
        if state.world.broken.is_some() {
            return;
        }
        state.world.moves(actions);
        let patient =
            state.world.net.len() > self.search.hurry || self.search.idle && state.world.is_busy();
        actions.retain(|step| {
            let outage = matches!(step, Move::Cut { .. } | Move::Crash(..));
            let allowed = state.trouble > 0 && (outage || !self.search.outages);
            !(step.is_trouble() && !allowed
                || matches!(step, Move::Force(_)) && state.forces == 0
                || matches!(step, Move::Timer(..)) && patient)
        });
    }

    fn next_state(&self, last: &State, step: Move) -> Option<State> {
        let mut next = last.clone();
        next.trouble -= u8::from(step.is_trouble());
        next.forces -= u8::from(matches!(step, Move::Force(_)));
        if let Err(broken) = next.world.apply(&step) {
            next.world.broken = Some(broken);
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = always!(OneRunner NeverBack Force Locks Said Once Lost Resolved);
        let met = sometimes! {
            Moved: "the VM moves";
            Stayed: "the VM stays";
            Lost: "the source tells a VM lost";
            Unresolved: "nobody can tell";
            Running: "the VM runs at the destination";
            Refused: "the destination refuses";
            DestinationLost: "the destination tells a VM lost";
            Forced: "the VM stays by force";
            Superseded: "a destination gives way to a force";
            GaveWay: "a force gives way to a later epoch";
            TwoRunAfterForce: "two run after a force, until they hear of it";
            HopsBack: "the VM comes back to a node it left";
            OlderIsOutlived: "an unresolved hop is settled by a later offer";
            Destroyed: "the VM is destroyed";
        };
        let wanted = |end: &Sometimes| self.search.sometimes.contains(end);
        let met = met.into_iter().filter(|(end, _)| wanted(end));
        properties.extend(met.map(|(_, property)| property));
        properties
    }
}

impl Handover {
    fn comes_to_rest(&self, world: &World) -> Result<(), Broken> {
        let mut seen = Vec::new();
        world.comes_to_rest(|world| {
            let fingerprint = fingerprint(world);
            seen.push(fingerprint);
            let restful = self.restful.lock().unwrap_or_else(PoisonError::into_inner);
            restful.contains(&fingerprint)
        })?;
        let mut restful = self.restful.lock().unwrap_or_else(PoisonError::into_inner);
        restful.extend(seen);
        Ok(())
    }
}

impl World {
    fn meets(&self, end: Sometimes) -> bool {
        let source = |is: fn(&SourceOutcome) -> bool| {
            let mut sessions = self.sessions.iter();
            sessions.any(|s| s.s_end.as_ref().is_some_and(is))
        };
        let destination = |is: fn(&DestinationOutcome) -> bool| {
            let mut sessions = self.sessions.iter();
            sessions.any(|s| s.d_end.as_ref().is_some_and(is))
        };
        match end {
            Sometimes::Moved => source(|end| matches!(end, SourceOutcome::Moved { .. })),
            Sometimes::Stayed => source(|end| matches!(end, SourceOutcome::StayedHere { .. })),
            Sometimes::Lost => source(|end| matches!(end, SourceOutcome::Lost { .. })),
            Sometimes::Unresolved => source(|end| *end == SourceOutcome::Unresolved),
            Sometimes::Running => destination(|end| *end == DestinationOutcome::Running),
            Sometimes::Refused => destination(|end| {
                let refused = DiscardReason::Refused(String::new());
                matches!(end, DestinationOutcome::Discarded { why }
                    if std::mem::discriminant(why) == std::mem::discriminant(&refused))
            }),
            Sometimes::DestinationLost => {
                destination(|end| matches!(end, DestinationOutcome::Lost { .. }))
            }
            Sometimes::Forced => {
                source(|end| *end == SourceOutcome::StayedHere { why: Why::Forced })
            }
            Sometimes::Superseded => {
                destination(|end| matches!(end, DestinationOutcome::Superseded { .. }))
            }
            Sometimes::GaveWay => {
                self.forced
                    && source(
                        |end| matches!(end, SourceOutcome::Lost { reason } if reason.contains("lives on")),
                    )
            }
            Sometimes::TwoRunAfterForce => self.runners() == 2,
            Sometimes::HopsBack => {
                self.nodes[0].runs && self.nodes[0].copy.is_some_and(|copy| copy > 0)
            }
            Sometimes::OlderIsOutlived => self.sessions.iter().any(|session| {
                let later = self
                    .sessions
                    .last()
                    .is_some_and(|last| last.to == session.from);
                later
                    && matches!(session.s_end, Some(SourceOutcome::Moved { .. }))
                    && session.outlived
            }),
            Sometimes::Destroyed => self.destroyed,
        }
    }
}

/// Of a world without what may still happen to it.
fn fingerprint(world: &World) -> u64 {
    let mut hasher = DefaultHasher::new();
    world.hash(&mut hasher);
    hasher.finish()
}

/// What a search found.
struct Found {
    states: usize,
    /// The rule that was broken first, and the way there.
    broken: Option<(Rule, String)>,
    /// The ends that were wanted and not met.
    unmet: Vec<&'static str>,
}

impl Search {
    fn run(self) -> Found {
        let (name, trouble, forces, hurry) = (self.name, self.trouble, self.forces, self.hurry);
        let began = Instant::now();
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(4));
        let checker = Handover {
            search: self,
            restful: Mutex::default(),
            restless: Mutex::default(),
        }
        .checker()
        .threads(threads)
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
        println!(
            "{name}: trouble {trouble}, forces {forces}, hurry {hurry}: {} states, {} steps, depth \
             {}, {:?}",
            checker.unique_state_count(),
            checker.state_count(),
            checker.max_depth(),
            began.elapsed()
        );
        let discoveries = checker.discoveries();
        let broken = ALWAYS.iter().find_map(|(rule, name)| {
            let path = discoveries.get(name)?;
            let last = path.last_state();
            let how = last.world.broken.as_ref().map_or_else(
                || format!("{:?}", last.world.comes_to_rest(|_| false)),
                ToString::to_string,
            );
            let steps: Vec<String> = path
                .clone()
                .into_actions()
                .iter()
                .map(|step| format!("{step:?}"))
                .collect();
            Some((*rule, format!("{name}: {how}\n{}", steps.join("\n"))))
        });
        let properties = checker.model().properties();
        let unmet = properties
            .iter()
            .filter(|p| p.expectation == stateright::Expectation::Sometimes)
            .map(|p| p.name)
            .filter(|name| !discoveries.contains_key(name))
            .collect();
        Found {
            states: checker.unique_state_count(),
            broken,
            unmet,
        }
    }
}
