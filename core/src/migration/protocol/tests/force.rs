//! An operator's force, on each side alone: who is obeyed, who gives way, the exact effects.

use super::super::Ignored;
use super::super::destination::{
    Destination, DestinationEffect, DestinationInput, DestinationOutcome, Verdict,
};
use super::super::message::Body;
use super::super::source::{
    ForceRefusal, Record, Source, SourceEffect, SourceInput, SourceOutcome, Why,
};
use super::{D, EPOCH, S, message, refused};
use super::{destination, source};

const FORCED: Body = Body::Superseded { epoch: EPOCH + 1 };

fn write_forced() -> SourceEffect {
    SourceEffect::Persist(Record::Forced {
        epoch: EPOCH + 1,
        destination_uuid: D.into(),
    })
}

fn refuses(why: ForceRefusal) -> SourceEffect {
    SourceEffect::ForceRefused(why)
}

fn tells() -> SourceEffect {
    SourceEffect::Send(message(FORCED))
}

fn answers(body: Body) -> SourceInput {
    source::hear(body)
}

/// A source whose grant is durable and whose link is lost.
fn alone() -> Source {
    let mut granted = source::at(source::GRANTED);
    let asks = [SourceEffect::AskLater];
    assert_eq!(granted.handle(SourceInput::LinkLost), asks);
    granted
}

/// Its VM runs, by force.
fn forced() -> Source {
    let mut forced = alone();
    let stayed = SourceEffect::Finish(SourceOutcome::StayedHere { why: Why::Forced });
    source::script(
        &mut forced,
        vec![
            (SourceInput::Force, vec![SourceEffect::Lock]),
            (SourceInput::Locked, vec![write_forced()]),
            (
                SourceInput::Persisted,
                vec![
                    SourceEffect::StopCopy,
                    SourceEffect::Resume,
                    SourceEffect::AskLater,
                ],
            ),
            (SourceInput::Resumed, vec![stayed]),
        ],
    );
    forced
}

#[test]
fn a_force_takes_a_higher_epoch_and_says_so_until_it_is_heard() {
    let done = || SourceEffect::Send(message(Body::Done));
    source::script(
        &mut forced(),
        vec![
            (SourceInput::Ask, vec![SourceEffect::AskLater]),
            (SourceInput::LinkUp, vec![tells(), SourceEffect::AskLater]),
            (answers(Body::Running), vec![tells()]),
            (answers(Body::Taken), vec![tells()]),
            (answers(Body::Ready), vec![tells()]),
            (answers(Body::Resolve), vec![tells()]),
            (SourceInput::Ask, vec![tells(), SourceEffect::AskLater]),
            (answers(refused("superseded")), vec![done()]),
            (SourceInput::Ask, vec![]),
            (answers(refused("superseded")), vec![done()]),
            (answers(Body::Running), vec![done()]),
        ],
    );
}

#[test]
fn a_force_is_refused_while_the_peer_answers_but_not_for_a_stranger() {
    let mut granted = source::at(source::GRANTED);
    let no = [refuses(ForceRefusal::PeerAnswers)];
    assert_eq!(granted.handle(SourceInput::Force), no);
    assert_eq!(granted, source::at(source::GRANTED));
    let stranger = SourceInput::Received {
        from: "x".into(),
        message: message(refused("what VM?")),
    };
    let ignored = [SourceEffect::Ignored(Ignored::Stranger)];
    assert_eq!(granted.handle(stranger.clone()), ignored);
    let mut heard = granted.clone();
    assert_eq!(granted.handle(SourceInput::Force), [SourceEffect::Lock]);
    heard.handle(answers(Body::Pending));
    assert_eq!(heard.handle(SourceInput::Force), no);
}

#[test]
fn only_what_is_granted_is_forced() {
    for phase in 0..=source::GRANTING {
        let mut early = source::at(phase);
        let before = early.clone();
        let effects = early.handle(SourceInput::Force);
        assert!(
            matches!(
                effects[..],
                [SourceEffect::ForceRefused(ForceRefusal::Decided(_))]
            ),
            "{effects:?}"
        );
        assert_eq!(early, before);
    }
    let no = |source: &mut Source, phase| {
        let refusal = refuses(ForceRefusal::Decided(phase));
        assert_eq!(source.handle(SourceInput::Force), [refusal]);
    };
    no(&mut forced(), "forced");
    let mut released = alone();
    released.handle(answers(Body::Running));
    no(&mut released, "releasing");
    released.handle(SourceInput::Persisted);
    no(&mut released, "moved");
}

#[test]
fn a_force_without_the_disks_leaves_everything_as_it_was() {
    let mut source = alone();
    source::script(
        &mut source,
        vec![
            (SourceInput::Force, vec![SourceEffect::Lock]),
            (
                SourceInput::LockFailed("held".into()),
                vec![
                    refuses(ForceRefusal::Locks("held".into())),
                    SourceEffect::AskLater,
                ],
            ),
        ],
    );
    assert_eq!(source, alone());
}

#[test]
fn a_force_that_cannot_be_written_is_tried_again_and_nothing_runs() {
    let unresolved = SourceEffect::Finish(SourceOutcome::Unresolved);
    source::script(
        &mut alone(),
        vec![
            (SourceInput::Force, vec![SourceEffect::Lock]),
            (SourceInput::Locked, vec![write_forced()]),
            (
                SourceInput::PersistFailed,
                vec![unresolved, SourceEffect::AskLater],
            ),
            (SourceInput::LinkUp, vec![]),
            (SourceInput::Cancel, vec![SourceEffect::CancelRefused]),
            (
                answers(Body::Resolve),
                vec![SourceEffect::Send(message(Body::Undecided))],
            ),
            (SourceInput::Ask, vec![write_forced()]),
        ],
    );
}

#[test]
fn a_destination_that_says_in_time_that_it_has_the_vm_keeps_it() {
    let released = || {
        SourceEffect::Persist(Record::Released {
            epoch: EPOCH,
            node_uuid: D.into(),
        })
    };
    let off = || {
        vec![
            SourceEffect::Unlock,
            refuses(ForceRefusal::Taken),
            released(),
        ]
    };
    // While the disks are locked, while it is written, and while it waits to be written again.
    let mut locking = alone();
    locking.handle(SourceInput::Force);
    let mut writing = locking.clone();
    assert_eq!(locking.handle(answers(Body::Running)), []);
    let mut unlocked = locking.clone();
    assert_eq!(locking.handle(SourceInput::Locked), off());
    let failed = SourceInput::LockFailed("held".into());
    assert_eq!(unlocked.handle(failed), off()[1..]);
    writing.handle(SourceInput::Locked);
    let mut waiting = writing.clone();
    assert_eq!(writing.handle(answers(Body::Taken)), []);
    assert_eq!(writing.handle(SourceInput::Persisted), off());
    waiting.handle(SourceInput::PersistFailed);
    assert_eq!(waiting.handle(answers(Body::Running)), off());
}

#[test]
fn a_restarted_source_can_be_forced_and_its_vm_is_lost() {
    let granted = Record::Granted {
        epoch: EPOCH,
        destination_uuid: D.into(),
    };
    let mut source = Source::recovered("m".into(), EPOCH, Some(granted));
    assert_eq!(source.handle(SourceInput::Force), [SourceEffect::Lock]);
    assert_eq!(source.handle(SourceInput::Locked), [write_forced()]);
    let effects = source.handle(SourceInput::Persisted);
    assert!(
        matches!(
            effects[..],
            [
                SourceEffect::Finish(SourceOutcome::Lost { .. }),
                SourceEffect::AskLater
            ]
        ),
        "{effects:?}"
    );
    let record = Record::Forced {
        epoch: EPOCH + 1,
        destination_uuid: D.into(),
    };
    assert_eq!(
        (record.session_epoch(), record.own_epoch()),
        (EPOCH, Some(EPOCH + 1))
    );
    let mut again = Source::recovered("m".into(), EPOCH, Some(record));
    let asks = [tells(), SourceEffect::AskLater];
    assert_eq!(again.handle(SourceInput::LinkUp), asks);
}

#[test]
fn a_forced_vm_gives_way_to_an_epoch_that_is_not_lower() {
    for epoch in [EPOCH + 1, EPOCH + 5] {
        let mut source = forced();
        source.handle(SourceInput::LinkUp);
        let effects = source.handle(answers(Body::Superseded { epoch }));
        assert_eq!(effects[0], SourceEffect::Halt { epoch });
        assert!(
            matches!(
                effects[1..],
                [
                    SourceEffect::Finish(SourceOutcome::Lost { .. }),
                    SourceEffect::Send(_)
                ]
            ),
            "{effects:?}"
        );
        // Once is enough.
        let done = [SourceEffect::Send(message(Body::Done))];
        assert_eq!(source.handle(answers(Body::Superseded { epoch })), done);
        assert_eq!(source.handle(SourceInput::Ask), []);
    }
    let mut source = forced();
    let lower = answers(Body::Superseded { epoch: EPOCH });
    let effects = source.handle(lower);
    assert_eq!(effects, source::out_of_place("superseded"));
}

#[test]
fn a_later_offer_settles_a_grant_and_stops_a_forced_vm() {
    let later = |epoch| SourceInput::Outlived { epoch };
    let released = SourceEffect::Persist(Record::Released {
        epoch: EPOCH,
        node_uuid: D.into(),
    });
    assert_eq!(alone().handle(later(EPOCH + 2)), [released]);
    let effects = forced().handle(later(EPOCH + 2));
    let epoch = EPOCH + 2;
    assert_eq!(effects[0], SourceEffect::Halt { epoch });
    let mut copying = source::at(source::COPYING);
    copying.handle(later(EPOCH + 2));
    assert_eq!(copying, source::at(source::COPYING));
}

fn write_superseded() -> DestinationEffect {
    DestinationEffect::Persist(Verdict::Superseded { epoch: EPOCH + 1 })
}

fn yields() -> Vec<DestinationEffect> {
    let reason = format!(
        "it was taken, and stopped: somebody has it under the higher epoch {}",
        EPOCH + 1
    );
    vec![
        DestinationEffect::Finish(DestinationOutcome::Superseded { epoch: EPOCH + 1 }),
        DestinationEffect::Send(message(refused(&reason))),
        DestinationEffect::AskLater,
    ]
}

fn pause() -> DestinationEffect {
    DestinationEffect::Pause { epoch: EPOCH + 1 }
}

#[test]
fn a_vm_that_runs_stops_for_a_higher_epoch_and_is_not_run_again() {
    let mut running = destination::at(destination::RUNNING);
    destination::script(
        &mut running,
        vec![
            (destination::hear(FORCED), vec![pause()]),
            (destination::hear(FORCED), vec![]),
            (DestinationInput::Halted, vec![write_superseded()]),
            (
                DestinationInput::PersistFailed,
                vec![DestinationEffect::AskLater],
            ),
            (DestinationInput::Ask, vec![write_superseded()]),
            (DestinationInput::Persisted, yields()),
            (
                destination::hear(Body::Done),
                vec![DestinationEffect::Persist(Verdict::Forget)],
            ),
        ],
    );
    let verdict = Verdict::Superseded { epoch: EPOCH + 1 };
    let mut again = Destination::recovered("m".into(), EPOCH, D.into(), S.into(), Some(&verdict));
    assert_eq!(again.handle(DestinationInput::LinkUp), yields()[1..]);
}

#[test]
fn a_vm_that_runs_stops_for_no_other_epoch() {
    for epoch in [0, EPOCH - 1, EPOCH] {
        let mut running = destination::at(destination::RUNNING);
        let effects = running.handle(destination::hear(Body::Superseded { epoch }));
        assert_eq!(effects, destination::out_of_place("superseded"));
        assert_eq!(running, destination::at(destination::RUNNING));
    }
}

#[test]
fn a_vm_that_has_gone_on_is_told_to_the_source() {
    let mut running = destination::at(destination::RUNNING);
    let last = EPOCH + 1;
    let tells = DestinationEffect::Send(message(Body::Superseded { epoch: last }));
    destination::script(
        &mut running,
        vec![
            (destination::hear(FORCED), vec![pause()]),
            (
                DestinationInput::Later { last },
                vec![tells, DestinationEffect::AskLater],
            ),
        ],
    );
    assert_eq!(running, destination::at(destination::RUNNING));
}

#[test]
fn a_copy_that_is_not_taken_is_refused() {
    for phase in [destination::READY, destination::LOCKING] {
        let mut waiting = destination::at(phase);
        assert_eq!(
            waiting.handle(destination::hear(FORCED)),
            [destination::write_refused()]
        );
    }
    // It is being written that it is taken: that is not undone, but nothing runs.
    destination::script(
        &mut destination::at(destination::TAKING),
        vec![
            (destination::hear(FORCED), vec![]),
            (DestinationInput::Persisted, vec![pause()]),
            (DestinationInput::Halted, vec![write_superseded()]),
            (DestinationInput::Persisted, yields()),
        ],
    );
    // The copy is lost: whoever says so is answered, and stops saying it.
    let mut gone = Destination::recovered("m".into(), EPOCH, D.into(), S.into(), None);
    gone.handle(DestinationInput::LinkUp);
    assert_eq!(
        gone.handle(destination::hear(FORCED)),
        [destination::write_refused()]
    );
}
