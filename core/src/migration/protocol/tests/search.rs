//! Every order of events, with so much trouble; and that the search sees broken rules.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet, VecDeque};
use std::mem::{self, Discriminant};
use std::time::Instant;

use super::super::Mutant;
use super::super::destination::DestinationOutcome;
use super::super::source::SourceOutcome;
use super::world::{Broken, Move, World};

/// Longer than any quiet end takes.
const REST: usize = 200;

/// How much is tried.
#[derive(Clone, Copy)]
struct Limits {
    /// So many troubles on each path.
    trouble: u8,
    /// Nobody asks again while more messages than this are on their way: 0 where every back-off is
    /// longer than any message takes.
    hurry: usize,
    /// Look whether each state comes to rest.
    rest: bool,
}

struct Found {
    states: usize,
    steps: usize,
    /// The ends that came about, by kind.
    source_ends: HashSet<Discriminant<SourceOutcome>>,
    destination_ends: HashSet<Discriminant<DestinationOutcome>>,
}

/// Breadth first from the beginning of a migration.
///
/// At every effect the world holds its invariants. With `rest` it must also come to rest from every
/// state, as soon as the trouble ends, with the VM running on one side or its end explained.
fn search(mutant: Option<Mutant>, limits: Limits) -> Result<Found, Broken> {
    let start = World::new(mutant);
    let trouble = limits.trouble;
    let first = start.fingerprint();
    let mut best = HashMap::from([(first, trouble)]);
    let mut parents: Vec<(usize, Option<Move>)> = vec![(0, None)];
    let mut queue = VecDeque::from([(0, trouble, first, start)]);
    let mut restful = HashSet::new();
    let mut steps = 0;
    let (mut source_ends, mut destination_ends) = (HashSet::new(), HashSet::new());
    while let Some((id, left, fingerprint, world)) = queue.pop_front() {
        source_ends.extend(world.s_end.as_ref().map(mem::discriminant));
        destination_ends.extend(world.d_end.as_ref().map(mem::discriminant));
        if limits.rest {
            comes_to_rest(&world, fingerprint, &mut restful)
                .map_err(|broken| format!("{broken}\n{}", path(&parents, id)))?;
        }
        for step in world.moves() {
            if matches!(step, Move::Timer(_)) && world.net.len() > limits.hurry {
                continue;
            }
            if step.is_trouble() && left == 0 {
                continue;
            }
            let left = left - u8::from(step.is_trouble());
            let mut next = world.clone();
            let result = next.apply(&step);
            steps += 1;
            let child = parents.len();
            let fingerprint = next.fingerprint();
            let known = match best.entry(fingerprint) {
                Entry::Occupied(mut seen) => {
                    let known = *seen.get() >= left;
                    if !known {
                        seen.insert(left);
                    }
                    known
                }
                Entry::Vacant(new) => {
                    new.insert(left);
                    false
                }
            };
            if known && result.is_ok() {
                continue;
            }
            // The path to a broken rule is what a reader needs.
            parents.push((id, Some(step)));
            result.map_err(|broken| format!("{broken}\n{}", path(&parents, child)))?;
            queue.push_back((child, left, fingerprint, next));
        }
    }
    Ok(Found {
        states: best.len(),
        steps,
        source_ends,
        destination_ends,
    })
}

/// Follows the calm moves until a state that is known to come to rest.
fn comes_to_rest(
    world: &World,
    mut fingerprint: u64,
    restful: &mut HashSet<u64>,
) -> Result<(), Broken> {
    if restful.contains(&fingerprint) {
        return Ok(());
    }
    let mut world = world.clone();
    let mut seen = Vec::new();
    let mut calm = Vec::new();
    while seen.len() < REST {
        if restful.contains(&fingerprint) {
            restful.extend(seen);
            return Ok(());
        }
        seen.push(fingerprint);
        let Some(step) = world.calm() else {
            world
                .at_rest()
                .map_err(|broken| format!("{broken}\nafter {calm:?}"))?;
            restful.extend(seen);
            return Ok(());
        };
        world.apply(&step)?;
        fingerprint = world.fingerprint();
        calm.push(step);
    }
    calm.truncate(20);
    Err(format!("no rest; it begins {calm:?}"))
}

fn path(parents: &[(usize, Option<Move>)], mut id: usize) -> String {
    let mut moves = Vec::new();
    while let (parent, Some(step)) = &parents[id] {
        moves.push(format!("{step:?}"));
        id = *parent;
    }
    moves.reverse();
    moves.join("\n")
}

fn explore(trouble: u8, hurry: usize, at_least: usize) -> Found {
    let started = Instant::now();
    let found = search(
        None,
        Limits {
            trouble,
            hurry,
            rest: true,
        },
    )
    .unwrap_or_else(|broken| panic!("{broken}"));
    println!(
        "troubles: {trouble}, hurry: {hurry}: {} states, {} steps, {:?}",
        found.states,
        found.steps,
        started.elapsed()
    );
    assert!(found.states >= at_least, "the search did not search");
    found
}

#[test]
fn at_most_one_runs_and_every_end_is_told() {
    explore(1, 3, 100_000);
}

/// `cargo xtask test --long` goes deeper, which takes two minutes.
#[test]
fn more_troubles_leave_at_most_one_runner_and_a_told_end() {
    let found = explore(2, 0, 100_000);
    assert_eq!(
        found.source_ends.len(),
        4,
        "moved, stayed, lost and unresolved are all met"
    );
    assert_eq!(
        found.destination_ends.len(),
        3,
        "running, discarded and lost are all met"
    );
    if std::env::var_os("DWCP_LONG").is_some() {
        explore(2, usize::MAX, 1_000_000);
        explore(3, 0, 500_000);
    }
}

/// Enough for every broken rule to show, by what happens and not by what fails to happen.
const BRIEF: Limits = Limits {
    trouble: 2,
    hurry: 0,
    rest: false,
};

macro_rules! caught {
    ($($name:ident: $mutant:ident, $words:literal;)+) => {
        $(
            #[test]
            fn $name() {
                match search(Some(Mutant::$mutant), BRIEF) {
                    Ok(found) => panic!("not noticed in {} states", found.states),
                    Err(broken) => assert!(broken.contains($words), "{broken}"),
                }
            }
        )+
    };
}

caught! {
    a_source_that_resumes_on_a_lost_link_is_caught: ResumesOnLinkLost, "resumed while";
    a_source_that_does_not_wait_for_the_refusal_is_caught: ResumesOnRevoke, "resumed while";
    a_source_that_resumes_before_mine_is_durable_is_caught: ResumesBeforeMine, "resumed while";
    a_source_that_commits_before_the_grant_is_durable_is_caught: CommitsBeforeDurable, "COMMIT";
    a_destination_that_takes_what_it_refused_is_caught: ForgetsItsRefusal, "takes what it has refused";
    a_destination_that_runs_before_taken_is_durable_is_caught: RunsBeforeTaken, "runs before";
    a_destination_that_takes_without_its_disks_is_caught: TakesWithoutLock, "without its disks";
}
