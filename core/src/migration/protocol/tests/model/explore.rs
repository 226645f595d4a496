//! The hand-over as it is: all properties hold in all states of each search.

use super::world::{Config, Side};
use super::{Move, Search, Sometimes};

/// One migration in every order, from its first message on.
const ONE: Search = Search {
    name: "one migration",
    config: Config {
        plan: &[(0, 1)],
        brisk: false,
        disks: true,
        mutant: None,
        heed: None,
    },
    begin: |_| {},
    trouble: 1,
    outages: false,
    forces: 0,
    hurry: 3,
    idle: false,
    rest: true,
    sometimes: &[
        Sometimes::Moved,
        Sometimes::Stayed,
        Sometimes::Unresolved,
        Sometimes::Running,
        Sometimes::Refused,
        Sometimes::DestinationLost,
        Sometimes::Destroyed,
    ],
};

/// More troubles, where nobody asks again before all that was said has come and all work is done.
pub(super) const MANY: Search = Search {
    name: "one migration, much trouble",
    idle: true,
    trouble: 3,
    hurry: 0,
    sometimes: &[
        Sometimes::Moved,
        Sometimes::Stayed,
        Sometimes::Lost,
        Sometimes::Unresolved,
        Sometimes::Running,
        Sometimes::Refused,
        Sometimes::DestinationLost,
        Sometimes::Destroyed,
    ],
    ..ONE
};

/// From READY on, which is where the danger is.
pub(super) const BRISK: Config = Config {
    plan: &[(0, 1)],
    brisk: true,
    disks: true,
    mutant: None,
    heed: None,
};

/// An operator forces, and there are no disks that keep the destination from running as well.
const FORCE: Search = Search {
    name: "force without disks",
    config: Config {
        disks: false,
        ..BRISK
    },
    begin: |_| {},
    trouble: 2,
    outages: false,
    forces: 1,
    hurry: 0,
    idle: true,
    rest: true,
    sometimes: &[
        Sometimes::Moved,
        Sometimes::Lost,
        Sometimes::Forced,
        Sometimes::Superseded,
        Sometimes::TwoRunAfterForce,
    ],
};

/// The locks keep a force from making two runners.
const FORCE_LOCKS: Search = Search {
    name: "force with disks",
    config: BRISK,
    sometimes: &[Sometimes::Moved, Sometimes::Lost, Sometimes::Forced],
    ..FORCE
};

/// The VM goes on to a third node while the first hop may still be open.
const CHAIN: Search = Search {
    name: "a chain",
    config: Config {
        plan: &[(0, 1), (1, 2)],
        ..BRISK
    },
    begin: |_| {},
    trouble: 1,
    outages: false,
    forces: 0,
    hurry: 0,
    idle: true,
    rest: true,
    sometimes: &[
        Sometimes::Moved,
        Sometimes::Stayed,
        Sometimes::Unresolved,
        Sometimes::Refused,
    ],
};

/// The VM comes back to a node that may not know yet that it had left.
const BACK: Search = Search {
    name: "there and back",
    config: Config {
        plan: &[(0, 1), (1, 0)],
        ..BRISK
    },
    sometimes: &[
        Sometimes::Moved,
        Sometimes::HopsBack,
        Sometimes::OlderIsOutlived,
    ],
    ..CHAIN
};

/// A second try, with the first one's messages still on the wire.
const AGAIN: Search = Search {
    name: "the same again",
    config: Config {
        plan: &[(0, 1), (0, 1)],
        ..BRISK
    },
    sometimes: &[Sometimes::Moved, Sometimes::Stayed],
    ..CHAIN
};

/// All the way round, back to a node that cannot tell yet whether the VM has left.
const ROUND: Search = Search {
    name: "all the way round, one hop unresolved",
    config: Config {
        plan: &[(0, 1), (1, 2), (2, 0)],
        ..BRISK
    },
    begin: |world| {
        while !world.runs(1) {
            let step = world.calm().expect("it moves");
            world.apply(&step).expect("nothing is broken");
        }
        let cut = Move::Cut {
            wire: 0,
            lose: true,
        };
        let (notice, asks) = (Move::Notice(0, Side::Source), Move::Timer(0, Side::Source));
        for step in [cut, notice, asks] {
            world.apply(&step).expect("nothing is broken");
        }
    },
    trouble: 0,
    sometimes: &[
        Sometimes::Moved,
        Sometimes::Unresolved,
        Sometimes::HopsBack,
        Sometimes::OlderIsOutlived,
    ],
    ..CHAIN
};

/// The first hop is forced back, while the VM has gone on.
const CHAIN_FORCE: Search = Search {
    name: "a chain that is forced",
    config: Config {
        plan: &[(0, 1), (1, 2)],
        disks: false,
        ..BRISK
    },
    trouble: 1,
    forces: 1,
    sometimes: &[
        Sometimes::Forced,
        Sometimes::Superseded,
        Sometimes::GaveWay,
        Sometimes::TwoRunAfterForce,
    ],
    ..CHAIN
};

fn holds(search: Search, at_least: usize) {
    let found = search.run();
    if let Some((_, how)) = found.broken {
        panic!("{how}");
    }
    assert!(found.unmet.is_empty(), "never: {:?}", found.unmet);
    assert!(found.states >= at_least, "the search did not search");
}

/// What `cargo xtask test --long` tries as well.
fn holds_long(search: Search) {
    if std::env::var_os("DWCP_LONG").is_some() {
        holds(search, 100_000);
    }
}

#[test]
fn one_migration_in_every_order_with_one_trouble() {
    holds(ONE, 100_000);
    holds_long(Search {
        hurry: usize::MAX,
        ..ONE
    });
}

#[test]
fn one_migration_with_many_troubles() {
    holds(MANY, 100_000);
    holds_long(Search {
        trouble: 2,
        idle: false,
        ..MANY
    });
}

#[test]
fn a_force_breaks_only_what_it_may() {
    holds(FORCE, 100_000);
    holds_long(Search {
        trouble: 3,
        ..FORCE
    });
}

#[test]
fn a_force_with_disks_never_makes_two_runners() {
    holds(FORCE_LOCKS, 100_000);
    holds_long(Search {
        trouble: 3,
        ..FORCE_LOCKS
    });
}

#[test]
fn a_vm_that_goes_on_is_safe_while_its_first_hop_is_open() {
    holds(CHAIN, 50_000);
    holds_long(Search {
        idle: false,
        ..CHAIN
    });
}

#[test]
fn a_vm_that_comes_back_is_safe_while_its_first_hop_is_open() {
    holds(BACK, 50_000);
    holds_long(Search {
        idle: false,
        ..BACK
    });
}

#[test]
fn a_second_try_is_safe_from_the_messages_of_the_first() {
    holds(AGAIN, 5_000);
    holds_long(Search {
        trouble: 2,
        ..AGAIN
    });
}

#[test]
fn a_round_with_an_unresolved_hop_is_safe() {
    holds(ROUND, 1_000);
    holds_long(Search {
        trouble: 1,
        outages: true,
        ..ROUND
    });
}

#[test]
fn a_chain_that_is_forced_back_ends_with_one_runner() {
    holds(CHAIN_FORCE, 100_000);
}
