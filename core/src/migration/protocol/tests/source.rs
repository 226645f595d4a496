//! The source alone: every phase, every failure, the exact effects.

use super::super::Ignored;
use super::super::message::{Body, Message};
use super::super::source::SourceEffect as Effect;
use super::super::source::SourceInput as Input;
use super::super::source::{Record, Source, SourceOutcome, Why};
use super::{D, EPOCH, abort, failed, message, offer, prepared, refused};

pub(super) fn hear(body: Body) -> Input {
    Input::Received {
        from: D.into(),
        message: message(body),
    }
}

fn say(body: Body) -> Effect {
    Effect::Send(message(body))
}

pub(super) fn out_of_place(what: &'static str) -> Vec<Effect> {
    vec![Effect::Ignored(Ignored::OutOfPlace(what))]
}

fn stayed(why: Why) -> Effect {
    Effect::Finish(SourceOutcome::StayedHere { why })
}

fn moved() -> Effect {
    Effect::Finish(SourceOutcome::Moved {
        node_uuid: D.into(),
    })
}

fn unresolved() -> Effect {
    Effect::Finish(SourceOutcome::Unresolved)
}

fn write_granted() -> Effect {
    Effect::Persist(Record::Granted {
        epoch: EPOCH,
        destination_uuid: D.into(),
    })
}

fn write_mine() -> Effect {
    Effect::Persist(Record::Mine { epoch: EPOCH + 1 })
}

fn write_aborted() -> Effect {
    Effect::Persist(Record::Aborted { epoch: EPOCH })
}

fn write_released() -> Effect {
    Effect::Persist(Record::Released {
        epoch: EPOCH,
        node_uuid: D.into(),
    })
}

fn new() -> Source {
    Source::new("m".into(), EPOCH, offer())
}

/// The inputs that lead to a durable grant, with what each must bring about.
fn way() -> Vec<(Input, Vec<Effect>)> {
    let attach = Effect::Attach {
        token: "00ff".into(),
        channels: 4,
        handed: false,
    };
    vec![
        (Input::Start, vec![say(Body::Prepare(Box::new(offer())))]),
        (hear(prepared()), vec![attach]),
        (Input::Attached, vec![Effect::Copy]),
        (Input::Converged, vec![Effect::Pause]),
        (Input::Paused, vec![Effect::SendState]),
        (Input::StateSent, vec![]),
        (hear(Body::Ready), vec![write_granted()]),
        (
            Input::Persisted,
            vec![Effect::Unlock, say(Body::Commit), Effect::AskLater],
        ),
    ]
}

const PREPARING: usize = 1;
const ATTACHING: usize = 2;
pub(super) const COPYING: usize = 3;
const PAUSING: usize = 4;
const SENDING: usize = 5;
const AWAITING_READY: usize = 6;
pub(super) const GRANTING: usize = 7;
pub(super) const GRANTED: usize = 8;

/// A source that has gone so many steps of the way.
pub(super) fn at(steps: usize) -> Source {
    let mut source = new();
    for (input, effects) in way().into_iter().take(steps) {
        assert_eq!(source.handle(input), effects);
    }
    source
}

/// Feeds a script; each line is an input and its exact effects.
#[track_caller]
pub(super) fn script(source: &mut Source, lines: Vec<(Input, Vec<Effect>)>) {
    for (input, effects) in lines {
        assert_eq!(source.handle(input.clone()), effects, "after {input:?}");
    }
}

#[test]
fn that_memory_was_handed_over_is_passed_on() {
    let mut source = at(PREPARING);
    let (node_uuid, token) = (D.to_owned(), "00ff".to_owned());
    let prepared = Body::Prepared {
        node_uuid,
        token: token.clone(),
        channels: 1,
        handed: true,
    };
    let attach = Effect::Attach {
        token,
        channels: 1,
        handed: true,
    };
    assert_eq!(source.handle(hear(prepared)), [attach]);
}

/// What giving up says and does in a phase before the grant.
fn giving_up(phase: usize, why: &Why, link: bool) -> Vec<Effect> {
    let mut effects = Vec::new();
    if phase >= ATTACHING {
        effects.push(Effect::StopCopy);
    }
    if phase >= PREPARING && link {
        effects.push(say(abort(&why.to_string())));
    }
    effects.push(if phase >= PAUSING {
        Effect::Resume
    } else {
        stayed(why.clone())
    });
    effects
}

#[test]
fn the_happy_path_ends_with_the_vm_there() {
    script(
        &mut at(GRANTED),
        vec![
            (hear(Body::Running), vec![write_released()]),
            (
                Input::Persisted,
                vec![Effect::Release, say(Body::Done), moved()],
            ),
            (hear(Body::Running), vec![say(Body::Done)]),
            (hear(Body::Taken), vec![say(Body::Done)]),
            (hear(Body::Resolve), vec![say(Body::Done)]),
            (hear(refused("forgotten")), vec![say(Body::Done)]),
            (Input::Cancel, vec![Effect::CancelRefused]),
            (Input::Ask, vec![]),
            (Input::LinkLost, vec![]),
            (Input::Resumed, out_of_place("resumed")),
        ],
    );
}

#[test]
fn ready_may_overtake_the_report_that_all_is_sent() {
    script(
        &mut at(SENDING),
        vec![
            (hear(Body::Ready), vec![]),
            (hear(Body::Ready), vec![]),
            (Input::StateSent, vec![write_granted()]),
        ],
    );
}

#[test]
fn every_failure_before_the_grant_leaves_the_vm_here() {
    for phase in 0..=AWAITING_READY {
        let broken = || Why::Failed("broken".into());
        let lost = Why::Failed("the link to the destination was lost".into());
        for (input, why, link) in [
            (Input::Cancel, Why::Cancelled, true),
            (Input::Failed("broken".into()), broken(), true),
            (hear(failed("broken")), broken(), true),
            (
                hear(refused("shutdown")),
                Why::Refused("shutdown".into()),
                true,
            ),
            (Input::LinkLost, lost, false),
        ] {
            let mut source = at(phase);
            assert_eq!(
                source.handle(input),
                giving_up(phase, &why, link),
                "in phase {phase}"
            );
            if phase >= PAUSING {
                assert_eq!(source.handle(Input::Cancel), out_of_place("cancel"));
                assert_eq!(source.handle(Input::Resumed), [stayed(why)]);
            }
            if !link {
                assert_eq!(source.handle(Input::LinkUp), []);
            }
            script(
                &mut source,
                vec![
                    (hear(Body::Resolve), vec![say(Body::Aborted)]),
                    (hear(refused("late")), vec![say(Body::Done)]),
                    (hear(Body::Ready), out_of_place("ready")),
                    (Input::Paused, out_of_place("paused")),
                    (Input::Ask, vec![]),
                ],
            );
        }
    }
}

#[test]
fn the_limit_before_the_grant_takes_the_vm_back_at_once() {
    for phase in [PAUSING, SENDING, AWAITING_READY] {
        let mut source = at(phase);
        let effects = giving_up(phase, &Why::DowntimeLimit, true);
        assert_eq!(source.handle(Input::LimitPassed), effects);
        assert_eq!(source.handle(Input::Resumed), [stayed(Why::DowntimeLimit)]);
    }
}

#[test]
fn what_does_not_belong_aborts_before_the_grant() {
    let names = [
        "a migration not begun",
        "preparing",
        "attaching",
        "copying",
        "pausing",
        "sending the state",
        "awaiting ready",
    ];
    for (phase, name) in names.into_iter().enumerate() {
        for (input, what) in [
            (hear(Body::Running), "running"),
            (hear(Body::Taken), "taken"),
            (hear(Body::Commit), "commit"),
            (Input::Persisted, "persisted"),
            (Input::Resumed, "resumed"),
            (Input::Ask, "ask"),
        ] {
            let why = format!("protocol violation: `{what}` does not belong to {name}");
            assert_eq!(
                at(phase).handle(input),
                giving_up(phase, &Why::Failed(why), true)
            );
        }
    }
    let early = Why::Failed("protocol violation: `ready` does not belong to copying".into());
    assert_eq!(
        at(COPYING).handle(hear(Body::Ready)),
        giving_up(COPYING, &early, true)
    );
    let early = Why::Failed("protocol violation: `limit passed` does not belong to copying".into());
    assert_eq!(
        at(COPYING).handle(Input::LimitPassed),
        giving_up(COPYING, &early, true)
    );
}

#[test]
fn before_the_grant_it_is_undecided_and_a_second_prepared_is_harmless() {
    for phase in PREPARING..=AWAITING_READY {
        let mut source = at(phase);
        assert_eq!(source.handle(hear(Body::Resolve)), [say(Body::Undecided)]);
        assert_eq!(source.handle(Input::LinkUp), []);
        if phase >= ATTACHING {
            assert_eq!(source.handle(hear(prepared())), out_of_place("prepared"));
        }
        assert_eq!(source, at(phase));
    }
    assert_eq!(
        at(GRANTING).handle(hear(Body::Resolve)),
        [say(Body::Undecided)]
    );
}

#[test]
fn a_vm_that_does_not_fit_never_stops() {
    let reasons = vec!["no such CPU".to_owned(), "too little memory".to_owned()];
    assert_eq!(
        at(PREPARING).handle(hear(Body::Unfit {
            reasons: reasons.clone()
        })),
        [stayed(Why::Unfit(reasons))]
    );
}

#[test]
fn only_the_peer_and_the_session_count() {
    let mut source = at(GRANTED);
    let stranger = Input::Received {
        from: "x".into(),
        message: message(refused("")),
    };
    for other in [
        Message {
            epoch: EPOCH - 1,
            ..message(refused(""))
        },
        Message {
            epoch: EPOCH + 1,
            ..message(refused(""))
        },
        Message {
            session: "n".into(),
            ..message(refused(""))
        },
    ] {
        let input = Input::Received {
            from: D.into(),
            message: other,
        };
        assert_eq!(
            source.handle(input),
            [Effect::Ignored(Ignored::OtherSession)]
        );
    }
    assert_eq!(source, at(GRANTED));
    assert_eq!(
        source.handle(stranger),
        [Effect::Ignored(Ignored::Stranger)]
    );

    let lies = Input::Received {
        from: "x".into(),
        message: message(prepared()),
    };
    assert_eq!(
        at(PREPARING).handle(lies),
        [Effect::Ignored(Ignored::Stranger)]
    );
}

#[test]
fn after_the_grant_nothing_but_a_verdict_counts() {
    for phase in [GRANTING, GRANTED] {
        let mut source = at(phase);
        for (input, what) in [
            (hear(Body::Ready), "ready"),
            (hear(failed("late")), "failed"),
            (hear(prepared()), "prepared"),
            (hear(Body::Done), "done"),
            (Input::Failed("late".into()), "failed here"),
            (Input::Paused, "paused"),
            (Input::Resumed, "resumed"),
            (Input::Start, "start"),
        ] {
            assert_eq!(source.handle(input), out_of_place(what));
        }
        assert_eq!(source.handle(Input::Cancel), [Effect::CancelRefused]);
        assert_eq!(source, at(phase));
    }
}

#[test]
fn a_lost_link_after_the_grant_makes_it_ask_until_it_knows() {
    script(
        &mut at(GRANTED),
        vec![
            (Input::LinkLost, vec![Effect::AskLater]),
            (Input::Ask, vec![unresolved(), Effect::AskLater]),
            (Input::Ask, vec![Effect::AskLater]),
            (Input::LinkUp, vec![say(Body::Resolve), Effect::AskLater]),
            (hear(Body::Pending), vec![say(Body::Commit)]),
            (Input::Ask, vec![say(Body::Resolve), Effect::AskLater]),
            (hear(Body::Resolve), vec![say(Body::Commit)]),
            (hear(Body::Taken), vec![write_released()]),
            (
                Input::Persisted,
                vec![Effect::Release, say(Body::Done), moved()],
            ),
        ],
    );
}

#[test]
fn the_limit_after_the_grant_revokes_and_waits() {
    let back = vec![Effect::StopCopy, Effect::Resume, say(Body::Done)];
    script(
        &mut at(GRANTED),
        vec![
            (Input::LimitPassed, vec![say(Body::Revoke)]),
            (hear(Body::Pending), vec![say(Body::Revoke)]),
            (hear(Body::Resolve), vec![say(Body::Revoke)]),
            (Input::Ask, vec![say(Body::Revoke), Effect::AskLater]),
            (hear(refused("revoked")), vec![write_mine()]),
            (hear(refused("revoked")), out_of_place("refused")),
            (Input::Cancel, vec![Effect::CancelRefused]),
            (Input::Persisted, back),
            (hear(refused("revoked")), vec![say(Body::Done)]),
            (Input::Resumed, vec![stayed(Why::DowntimeLimit)]),
        ],
    );
    script(
        &mut at(GRANTED),
        vec![
            (Input::LimitPassed, vec![say(Body::Revoke)]),
            (hear(Body::Taken), vec![write_released()]),
            (
                Input::Persisted,
                vec![Effect::Release, say(Body::Done), moved()],
            ),
        ],
    );
    script(
        &mut at(GRANTED),
        vec![
            (Input::LinkLost, vec![Effect::AskLater]),
            (Input::LimitPassed, vec![unresolved()]),
            (Input::LinkUp, vec![say(Body::Revoke), Effect::AskLater]),
        ],
    );
}

#[test]
fn the_limit_while_the_grant_is_written_never_commits() {
    script(
        &mut at(GRANTING),
        vec![
            (Input::LimitPassed, vec![say(Body::Revoke)]),
            (hear(Body::Resolve), vec![say(Body::Revoke)]),
            (Input::Persisted, vec![Effect::AskLater]),
            (hear(Body::Pending), vec![say(Body::Revoke)]),
        ],
    );
    // The refusal may come before the store has written.
    script(
        &mut at(GRANTING),
        vec![
            (Input::LimitPassed, vec![say(Body::Revoke)]),
            (hear(refused("revoked")), vec![]),
            (Input::Persisted, vec![write_mine()]),
        ],
    );
    script(
        &mut at(GRANTING),
        vec![
            (hear(refused("shutdown")), vec![]),
            (Input::PersistFailed, vec![write_mine()]),
        ],
    );
    script(
        &mut at(GRANTING),
        vec![
            (Input::LinkLost, vec![]),
            (Input::LimitPassed, vec![unresolved()]),
            (Input::LinkUp, vec![say(Body::Revoke)]),
        ],
    );
}

#[test]
fn a_refusal_brings_the_vm_back_once_it_is_written_down() {
    script(
        &mut at(GRANTED),
        vec![
            (hear(refused("locks")), vec![write_mine()]),
            (Input::PersistFailed, vec![unresolved(), Effect::AskLater]),
            (Input::LinkLost, vec![]),
            (Input::Ask, vec![write_mine()]),
            (Input::Ask, vec![]),
            (Input::Persisted, vec![Effect::StopCopy, Effect::Resume]),
            (Input::Resumed, vec![stayed(Why::Refused("locks".into()))]),
        ],
    );
}

#[test]
fn a_grant_that_could_not_be_written_is_void_once_that_is_written() {
    let why = Why::Failed("the grant could not be written".into());
    let doubtful = || {
        let mut source = at(GRANTING);
        script(
            &mut source,
            vec![(Input::PersistFailed, vec![write_aborted()])],
        );
        source
    };
    script(
        &mut doubtful(),
        vec![
            (Input::Cancel, vec![Effect::CancelRefused]),
            (hear(Body::Resolve), vec![say(Body::Undecided)]),
            (Input::PersistFailed, vec![unresolved(), Effect::AskLater]),
            (hear(Body::Resolve), vec![say(Body::Undecided)]),
            (Input::Ask, vec![write_aborted()]),
            (Input::Ask, vec![]),
            (
                Input::Persisted,
                vec![
                    Effect::StopCopy,
                    say(abort(&why.to_string())),
                    Effect::Resume,
                ],
            ),
            (hear(Body::Resolve), vec![say(Body::Aborted)]),
            (Input::Resumed, vec![stayed(why)]),
        ],
    );
    // A refusal settles it too, whichever comes first.
    script(
        &mut doubtful(),
        vec![
            (hear(refused("no")), vec![]),
            (Input::PersistFailed, vec![write_mine()]),
        ],
    );
    script(
        &mut doubtful(),
        vec![
            (Input::PersistFailed, vec![unresolved(), Effect::AskLater]),
            (Input::LimitPassed, vec![say(Body::Revoke)]),
            (hear(refused("revoked")), vec![write_mine()]),
        ],
    );
    let why = Why::Refused("no".into());
    let say_why = say(abort(&why.to_string()));
    script(
        &mut doubtful(),
        vec![
            (hear(refused("no")), vec![]),
            (
                Input::Persisted,
                vec![Effect::StopCopy, say_why, Effect::Resume],
            ),
            (Input::Resumed, vec![stayed(why)]),
        ],
    );
}

#[test]
fn where_it_went_is_written_until_it_is_durable() {
    script(
        &mut at(GRANTED),
        vec![
            (hear(Body::Taken), vec![write_released()]),
            (Input::PersistFailed, vec![Effect::AskLater]),
            (hear(Body::Running), out_of_place("running")),
            (Input::Cancel, vec![Effect::CancelRefused]),
            (Input::Ask, vec![write_released()]),
            (
                Input::Persisted,
                vec![Effect::Release, say(Body::Done), moved()],
            ),
        ],
    );
}

#[test]
fn a_vm_that_cannot_be_resumed_is_lost_and_said_so() {
    let mut source = at(PAUSING);
    source.handle(Input::Cancel);
    let lost = SourceOutcome::Lost {
        reason: "broken".into(),
    };
    assert_eq!(
        source.handle(Input::Failed("broken".into())),
        [Effect::Finish(lost)]
    );
    assert_eq!(source.handle(hear(Body::Resolve)), [say(Body::Aborted)]);
}

#[test]
fn a_restarted_source_goes_by_its_record() {
    let recovered = |record| Source::recovered("m".into(), EPOCH, record);

    let granted = Record::Granted {
        epoch: EPOCH,
        destination_uuid: D.into(),
    };
    let asks = (Input::LinkUp, vec![say(Body::Resolve), Effect::AskLater]);
    script(
        &mut recovered(Some(granted.clone())),
        vec![
            asks.clone(),
            (hear(Body::Pending), vec![say(Body::Commit)]),
            (hear(Body::Running), vec![write_released()]),
            (
                Input::Persisted,
                vec![Effect::Release, say(Body::Done), moved()],
            ),
        ],
    );
    // Its memory died with the process: there is nothing to be resumed.
    let lost = SourceOutcome::Lost {
        reason: "the source restarted in the hand-over, then the destination refused: locks".into(),
    };
    script(
        &mut recovered(Some(granted)),
        vec![
            asks,
            (hear(refused("locks")), vec![write_mine()]),
            (
                Input::Persisted,
                vec![say(Body::Done), Effect::Finish(lost)],
            ),
        ],
    );
    for record in [
        None,
        Some(Record::Aborted { epoch: EPOCH }),
        Some(Record::Mine { epoch: EPOCH + 1 }),
    ] {
        script(
            &mut recovered(record),
            vec![
                (Input::LinkUp, vec![]),
                (hear(Body::Resolve), vec![say(Body::Aborted)]),
            ],
        );
    }
    let released = Record::Released {
        epoch: EPOCH,
        node_uuid: D.into(),
    };
    script(
        &mut recovered(Some(released)),
        vec![
            (Input::LinkUp, vec![]),
            (hear(Body::Running), vec![say(Body::Done)]),
        ],
    );
}
