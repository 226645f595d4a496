//! Each safeguard, when it is taken away, is missed: the model finds what it kept from happening.
//!
//! Where other rules would speak up before, only the rule heeded counts: a REFUSED that was said and
//! not written is not what an operator minds, but two runners are.

use super::super::super::Mutant;
use super::Search;
use super::explore::{BRISK, MANY};
use super::world::{Config, Rule};

/// One migration from READY on, with two troubles.
const BRIEF: Search = Search {
    name: "from READY on",
    config: BRISK,
    trouble: 2,
    rest: false,
    sometimes: &[],
    ..MANY
};

/// The same, and runs must end well.
const LIVELY: Search = Search {
    rest: true,
    ..BRIEF
};

/// Nothing keeps the destination from running what the source runs.
const NO_DISKS: Config = Config {
    disks: false,
    ..BRISK
};

fn finds(mutant: Mutant, search: Search, rule: Rule, words: &str) {
    let heed = Some(rule);
    let config = Config {
        mutant: Some(mutant),
        heed,
        ..search.config
    };
    let found = Search { config, ..search }.run();
    let Some((broken, how)) = found.broken else {
        panic!("{mutant:?} is not noticed in {} states", found.states);
    };
    assert_eq!(broken, rule, "{how}");
    assert!(how.contains(words), "{how}");
}

#[test]
fn nothing_is_caught_without_a_mutant() {
    let disks = Search {
        trouble: 3,
        ..BRIEF
    };
    let none = Search {
        config: NO_DISKS,
        ..disks
    };
    for search in [disks, none] {
        let found = search.run();
        assert_eq!(found.broken, None);
    }
}

#[test]
fn a_source_that_resumes_on_a_lost_link_is_caught() {
    let search = Search {
        config: NO_DISKS,
        ..BRIEF
    };
    finds(
        Mutant::ResumesOnLinkLost,
        search,
        Rule::OneRunner,
        "resumed while granted",
    );
}

#[test]
fn a_source_that_does_not_wait_for_the_refusal_is_caught() {
    finds(
        Mutant::ResumesOnRevoke,
        BRIEF,
        Rule::OneRunner,
        "resumed while granted",
    );
}

#[test]
fn a_source_that_resumes_before_mine_is_durable_is_caught() {
    finds(
        Mutant::ResumesBeforeMine,
        BRIEF,
        Rule::OneRunner,
        "resumed while granted",
    );
}

#[test]
fn an_unsynced_grant_is_caught() {
    let search = Search {
        config: NO_DISKS,
        ..BRIEF
    };
    finds(
        Mutant::CommitsBeforeDurable,
        search,
        Rule::OneRunner,
        "two runners",
    );
    finds(
        Mutant::CommitsBeforeDurable,
        BRIEF,
        Rule::Said,
        "COMMIT without a durable grant",
    );
}

#[test]
fn a_refusal_without_its_fence_is_caught() {
    let search = Search {
        config: NO_DISKS,
        ..BRIEF
    };
    finds(
        Mutant::RefusesWithoutFence,
        search,
        Rule::OneRunner,
        "two runners",
    );
}

#[test]
fn a_destination_that_takes_what_it_refused_is_caught() {
    let search = Search {
        config: NO_DISKS,
        ..BRIEF
    };
    finds(
        Mutant::ForgetsItsRefusal,
        search,
        Rule::OneRunner,
        "two runners",
    );
    finds(
        Mutant::ForgetsItsRefusal,
        BRIEF,
        Rule::Once,
        "takes what it has refused",
    );
}

#[test]
fn a_destination_that_runs_before_taken_is_durable_is_caught() {
    finds(
        Mutant::RunsBeforeTaken,
        BRIEF,
        Rule::NeverBack,
        "resumed what has run elsewhere",
    );
    finds(
        Mutant::RunsBeforeTaken,
        BRIEF,
        Rule::Said,
        "runs before TAKEN is durable",
    );
}

#[test]
fn a_destination_that_takes_without_its_disks_is_caught() {
    finds(
        Mutant::TakesWithoutLock,
        BRIEF,
        Rule::Locks,
        "without its disks",
    );
}

#[test]
fn a_source_that_unlocks_after_it_commits_is_caught() {
    finds(
        Mutant::UnlocksAfterCommit,
        BRIEF,
        Rule::Locks,
        "COMMIT with the disks locked",
    );
}

#[test]
fn a_verdict_forgotten_before_done_is_caught() {
    finds(
        Mutant::ForgetsItsVerdict,
        BRIEF,
        Rule::NeverBack,
        "resumed what has run elsewhere",
    );
}

#[test]
fn a_grant_before_ready_is_caught() {
    finds(
        Mutant::GrantsBeforeReady,
        BRIEF,
        Rule::Said,
        "granted to who is not ready",
    );
}

#[test]
fn running_taken_for_a_failure_is_caught() {
    let search = Search {
        config: NO_DISKS,
        ..BRIEF
    };
    finds(
        Mutant::RunningIsFailure,
        search,
        Rule::OneRunner,
        "two runners",
    );
}

#[test]
fn a_force_without_a_higher_epoch_is_caught() {
    let search = Search {
        config: NO_DISKS,
        forces: 1,
        ..LIVELY
    };
    finds(
        Mutant::ForcesWithoutEpoch,
        search,
        Rule::Force,
        "two run for ever",
    );
}

#[test]
fn an_epoch_used_twice_is_caught() {
    finds(
        Mutant::EpochReused,
        BRIEF,
        Rule::Once,
        "an epoch is used twice",
    );
    let search = Search {
        config: NO_DISKS,
        trouble: 3,
        ..BRIEF
    };
    finds(Mutant::EpochReused, search, Rule::OneRunner, "two runners");
}
