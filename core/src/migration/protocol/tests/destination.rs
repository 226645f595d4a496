//! The destination alone: every phase, every failure, the exact effects.

use super::super::Ignored;
use super::super::destination::DestinationEffect as Effect;
use super::super::destination::DestinationInput as Input;
use super::super::destination::{Destination, DestinationOutcome, DiscardReason, Verdict};
use super::super::message::{Body, Message};
use super::{D, EPOCH, S, abort, failed, message, offer, prepared, refused};

pub(super) fn hear(body: Body) -> Input {
    Input::Received {
        from: S.into(),
        message: message(body),
    }
}

fn say(body: Body) -> Effect {
    Effect::Send(message(body))
}

pub(super) fn out_of_place(what: &'static str) -> Vec<Effect> {
    vec![Effect::Ignored(Ignored::OutOfPlace(what))]
}

fn discarded(why: DiscardReason) -> Effect {
    Effect::Finish(DestinationOutcome::Discarded { why })
}

fn offered() -> Input {
    hear(Body::Prepare(Box::new(offer())))
}

fn write_taken() -> Effect {
    Effect::Persist(Verdict::Taken { epoch: EPOCH })
}

pub(super) fn write_refused() -> Effect {
    Effect::Persist(Verdict::Refused { epoch: EPOCH })
}

/// The inputs that lead to a running VM, with what each must bring about.
fn way() -> Vec<(Input, Vec<Effect>)> {
    let built = Input::Built {
        token: "00ff".into(),
        channels: 4,
        handed: false,
    };
    let runs = Effect::Finish(DestinationOutcome::Running);
    vec![
        (offered(), vec![Effect::Build(Box::new(offer()))]),
        (built, vec![Effect::Receive, say(prepared())]),
        (Input::StateReceived, vec![Effect::Load]),
        (Input::Loaded, vec![say(Body::Ready), Effect::AskLater]),
        (hear(Body::Commit), vec![Effect::Lock]),
        (Input::Locked, vec![write_taken()]),
        (Input::Persisted, vec![Effect::Run]),
        (Input::Ran, vec![runs, say(Body::Running), Effect::AskLater]),
    ]
}

#[test]
fn that_memory_was_handed_over_is_told() {
    let mut destination = at(BUILDING);
    let (node_uuid, token) = (D.to_owned(), "00ff".to_owned());
    let built = Input::Built {
        token: token.clone(),
        channels: 1,
        handed: true,
    };
    let prepared = Body::Prepared {
        node_uuid,
        token,
        channels: 1,
        handed: true,
    };
    let effects = [Effect::Receive, say(prepared)];
    assert_eq!(destination.handle(built), effects);
}

const IDLE: usize = 0;
const BUILDING: usize = 1;
const RECEIVING: usize = 2;
const LOADING: usize = 3;
pub(super) const READY: usize = 4;
pub(super) const LOCKING: usize = 5;
pub(super) const TAKING: usize = 6;
const STARTING: usize = 7;
pub(super) const RUNNING: usize = 8;

/// A destination that has gone so many steps of the way.
pub(super) fn at(steps: usize) -> Destination {
    let mut destination = Destination::new("m".into(), EPOCH, D.into(), S.into());
    for (input, effects) in way().into_iter().take(steps) {
        assert_eq!(destination.handle(input), effects);
    }
    destination
}

/// Feeds a script; each line is an input and its exact effects.
#[track_caller]
pub(super) fn script(destination: &mut Destination, lines: Vec<(Input, Vec<Effect>)>) {
    for (input, effects) in lines {
        assert_eq!(
            destination.handle(input.clone()),
            effects,
            "after {input:?}"
        );
    }
}

/// What follows when REFUSED has been handed to the store: it is said, again and again, until DONE.
#[track_caller]
fn refuses(destination: &mut Destination, reason: &str, vm: bool) {
    assert_eq!(
        destination.handle(hear(Body::Resolve)),
        [say(Body::Pending)]
    );
    let no = say(refused(reason));
    let mut effects = vec![no.clone(), Effect::AskLater];
    if vm {
        effects.insert(0, Effect::Discard);
        effects.push(discarded(DiscardReason::Refused(reason.into())));
    }
    script(
        destination,
        vec![
            (Input::PersistFailed, vec![Effect::AskLater]),
            (hear(Body::Commit), out_of_place("commit")),
            (Input::Ask, vec![write_refused()]),
            (Input::Ask, vec![]),
            (Input::Persisted, effects),
            (hear(Body::Commit), vec![no.clone()]),
            (hear(Body::Revoke), vec![no.clone()]),
            (hear(Body::Resolve), vec![no.clone()]),
            (Input::Locked, out_of_place("locked")),
            (Input::LinkLost, vec![]),
            (Input::LinkUp, vec![no.clone(), Effect::AskLater]),
            (Input::Ask, vec![no.clone(), Effect::AskLater]),
            (hear(Body::Done), vec![Effect::Persist(Verdict::Forget)]),
            (Input::PersistFailed, vec![Effect::AskLater]),
            (Input::Ask, vec![no.clone(), Effect::AskLater]),
            (hear(Body::Done), vec![Effect::Persist(Verdict::Forget)]),
            (Input::Persisted, vec![]),
            (Input::Ask, vec![]),
            (hear(Body::Commit), vec![no]),
        ],
    );
}

#[test]
fn the_happy_path_ends_with_a_forgotten_record() {
    script(
        &mut at(RUNNING),
        vec![
            (Input::Ask, vec![say(Body::Running), Effect::AskLater]),
            (hear(Body::Commit), vec![say(Body::Running)]),
            (hear(Body::Resolve), vec![say(Body::Running)]),
            (hear(Body::Revoke), vec![say(Body::Running)]),
            (Input::LinkLost, vec![]),
            (Input::LinkUp, vec![say(Body::Running), Effect::AskLater]),
            (hear(Body::Done), vec![Effect::Persist(Verdict::Forget)]),
            (hear(Body::Done), out_of_place("done")),
            (Input::Persisted, vec![]),
            (Input::Ask, vec![]),
            (Input::LinkUp, vec![]),
            (hear(Body::Resolve), vec![say(Body::Running)]),
        ],
    );
}

#[test]
fn a_verdict_that_cannot_be_forgotten_is_said_again() {
    script(
        &mut at(RUNNING),
        vec![
            (hear(Body::Done), vec![Effect::Persist(Verdict::Forget)]),
            (Input::PersistFailed, vec![Effect::AskLater]),
            (Input::Ask, vec![say(Body::Running), Effect::AskLater]),
        ],
    );
}

#[test]
fn a_repeated_offer_gets_its_first_answer() {
    assert_eq!(at(BUILDING).handle(offered()), []);
    for phase in RECEIVING..=RUNNING {
        let mut destination = at(phase);
        assert_eq!(destination.handle(offered()), [say(prepared())]);
        assert_eq!(destination, at(phase));
    }
    let mut unfit = at(BUILDING);
    let body = Body::Unfit {
        reasons: vec!["too big".into()],
    };
    let why = DiscardReason::Unfit(vec!["too big".into()]);
    let effects = vec![say(body.clone()), discarded(why)];
    script(
        &mut unfit,
        vec![
            (Input::Unfit(vec!["too big".into()]), effects),
            (offered(), vec![say(body)]),
        ],
    );
    let mut down = at(BUILDING);
    down.handle(Input::Shutdown);
    assert_eq!(
        down.handle(offered()),
        [say(failed("the destination is shutting down"))]
    );
    let mut restarted = Destination::recovered("m".into(), EPOCH, D.into(), S.into(), None);
    restarted.handle(Input::LinkUp);
    assert_eq!(
        restarted.handle(offered()),
        [say(failed("this epoch was used before"))]
    );
}

#[test]
fn every_failure_before_ready_keeps_nothing() {
    for phase in BUILDING..=LOADING {
        let lost = || DiscardReason::Failed("the link to the source was lost".into());
        for (input, why, told) in [
            (Input::LinkLost, lost(), None),
            (
                hear(abort("cancelled")),
                DiscardReason::Aborted("cancelled".into()),
                None,
            ),
            (
                hear(Body::Aborted),
                DiscardReason::Aborted("never granted".into()),
                None,
            ),
            (
                Input::Shutdown,
                DiscardReason::Shutdown,
                Some("the destination is shutting down"),
            ),
            (
                Input::ReceiveFailed("broken".into()),
                DiscardReason::Failed("broken".into()),
                Some("broken"),
            ),
            (
                Input::LoadFailed("broken".into()),
                DiscardReason::Failed("broken".into()),
                Some("broken"),
            ),
        ] {
            let mut effects = vec![Effect::Discard];
            effects.extend(told.map(|reason| say(failed(reason))));
            effects.push(discarded(why));
            let mut destination = at(phase);
            assert_eq!(destination.handle(input), effects, "in phase {phase}");
            script(
                &mut destination,
                vec![
                    (Input::Loaded, out_of_place("loaded")),
                    (hear(abort("late")), out_of_place("abort")),
                    (Input::Shutdown, vec![]),
                    (Input::LinkLost, vec![]),
                ],
            );
        }
    }
    let lost = DiscardReason::Failed("the link to the source was lost".into());
    assert_eq!(at(IDLE).handle(Input::LinkLost), [discarded(lost)]);
}

#[test]
fn what_does_not_belong_before_ready_is_told_and_discards() {
    let names = ["building", "receiving", "loading"];
    for (phase, name) in (BUILDING..=LOADING).zip(names) {
        for (input, what) in [
            (hear(Body::Done), "done"),
            (hear(Body::Undecided), "undecided"),
            (hear(Body::Ready), "ready"),
            (Input::Persisted, "persisted"),
            (Input::Ran, "ran"),
        ] {
            let why = format!("protocol violation: `{what}` does not belong to {name}");
            let effects = [
                Effect::Discard,
                say(failed(&why)),
                discarded(DiscardReason::Failed(why.clone())),
            ];
            assert_eq!(at(phase).handle(input), effects);
        }
    }
}

#[test]
fn who_asks_before_ready_asks_for_a_copy_that_was_lost() {
    for body in [Body::Commit, Body::Revoke, Body::Resolve] {
        for phase in IDLE..=LOADING {
            let mut destination = at(phase);
            assert_eq!(destination.handle(hear(body.clone())), [write_refused()]);
            refuses(
                &mut destination,
                "the copy that was ready is lost",
                phase > IDLE,
            );
        }
        let mut gone = at(RECEIVING);
        gone.handle(hear(abort("cancelled")));
        assert_eq!(gone.handle(hear(body)), [write_refused()]);
        refuses(
            &mut gone,
            "the copy was discarded: the source aborted: cancelled",
            false,
        );
    }
}

#[test]
fn a_ready_vm_waits_for_the_source_to_decide() {
    let aborted = discarded(DiscardReason::Aborted("never granted".into()));
    let called_off = discarded(DiscardReason::Aborted("cancelled".into()));
    script(
        &mut at(READY),
        vec![
            (Input::LinkLost, vec![Effect::AskLater]),
            (Input::Ask, vec![Effect::AskLater]),
            (Input::LinkUp, vec![say(Body::Resolve), Effect::AskLater]),
            (hear(Body::Undecided), vec![say(Body::Ready)]),
            (hear(Body::Resolve), vec![say(Body::Pending)]),
            (
                Input::ReceiveFailed("late".into()),
                out_of_place("receive failed"),
            ),
            (hear(Body::Done), out_of_place("done")),
            (Input::Ask, vec![say(Body::Resolve), Effect::AskLater]),
            (hear(Body::Aborted), vec![Effect::Discard, aborted]),
        ],
    );
    assert_eq!(
        at(READY).handle(hear(abort("cancelled"))),
        [Effect::Discard, called_off]
    );
}

#[test]
fn a_revoked_grant_is_refused_for_good() {
    for phase in [READY, LOCKING] {
        let mut destination = at(phase);
        assert_eq!(destination.handle(hear(Body::Revoke)), [write_refused()]);
        refuses(&mut destination, "the source revoked the grant", true);
    }
}

#[test]
fn a_shutdown_gives_back_what_is_not_taken() {
    for phase in [READY, LOCKING] {
        let mut destination = at(phase);
        assert_eq!(destination.handle(Input::Shutdown), [write_refused()]);
        refuses(&mut destination, "the destination is shutting down", true);
    }
    for phase in [TAKING, STARTING, RUNNING] {
        assert_eq!(at(phase).handle(Input::Shutdown), out_of_place("shutdown"));
    }
}

#[test]
fn disks_that_cannot_be_locked_give_the_vm_back() {
    let mut destination = at(LOCKING);
    assert_eq!(
        destination.handle(Input::LockFailed("held".into())),
        [write_refused()]
    );
    refuses(
        &mut destination,
        "the disks could not be locked: held",
        true,
    );
}

#[test]
fn a_verdict_that_cannot_be_written_gives_the_vm_back() {
    let mut destination = at(TAKING);
    assert_eq!(destination.handle(Input::PersistFailed), [write_refused()]);
    refuses(&mut destination, "the verdict could not be written", true);
}

#[test]
fn the_first_verdict_wins() {
    script(
        &mut at(TAKING),
        vec![
            (hear(Body::Resolve), vec![say(Body::Pending)]),
            (hear(Body::Commit), out_of_place("commit")),
            (hear(Body::Revoke), vec![]),
            (Input::LinkLost, vec![]),
            (Input::LinkUp, vec![]),
            (Input::Persisted, vec![say(Body::Taken), Effect::Run]),
            (hear(Body::Revoke), vec![say(Body::Taken)]),
            (hear(Body::Resolve), vec![say(Body::Taken)]),
            (Input::Ask, vec![]),
            (hear(Body::Done), vec![Effect::Persist(Verdict::Forget)]),
            (Input::Persisted, vec![]),
            (
                Input::Ran,
                vec![Effect::Finish(DestinationOutcome::Running)],
            ),
        ],
    );
    script(
        &mut at(LOCKING),
        vec![
            (hear(Body::Commit), out_of_place("commit")),
            (hear(Body::Resolve), vec![say(Body::Pending)]),
            (hear(abort("late")), out_of_place("abort")),
            (Input::LinkLost, vec![]),
            (Input::Ask, vec![]),
            (Input::Locked, vec![write_taken()]),
        ],
    );
}

#[test]
fn a_taken_vm_that_does_not_start_is_lost_here() {
    let lost = Effect::Finish(DestinationOutcome::Lost {
        reason: "broken".into(),
    });
    script(
        &mut at(STARTING),
        vec![
            (
                Input::RunFailed("broken".into()),
                vec![lost, say(Body::Taken), Effect::AskLater],
            ),
            (hear(Body::Revoke), vec![say(Body::Taken)]),
            (Input::Ran, out_of_place("ran")),
            (hear(Body::Done), vec![Effect::Persist(Verdict::Forget)]),
        ],
    );
}

#[test]
fn only_the_source_and_the_session_count() {
    let mut destination = at(READY);
    let stranger = Input::Received {
        from: "x".into(),
        message: message(Body::Commit),
    };
    assert_eq!(
        destination.handle(stranger),
        [Effect::Ignored(Ignored::Stranger)]
    );
    for other in [
        Message {
            epoch: EPOCH - 1,
            ..message(Body::Commit)
        },
        Message {
            epoch: EPOCH + 1,
            ..message(Body::Commit)
        },
        Message {
            session: "n".into(),
            ..message(Body::Commit)
        },
    ] {
        let input = Input::Received {
            from: S.into(),
            message: other,
        };
        assert_eq!(
            destination.handle(input),
            [Effect::Ignored(Ignored::OtherSession)]
        );
    }
    assert_eq!(destination, at(READY));

    let mut forged = offer();
    forged.source_uuid = "x".into();
    let input = hear(Body::Prepare(Box::new(forged)));
    assert_eq!(at(IDLE).handle(input), [Effect::Ignored(Ignored::Stranger)]);
}

#[test]
fn a_restarted_destination_goes_by_its_verdict() {
    let recovered =
        |verdict| Destination::recovered("m".into(), EPOCH, D.into(), S.into(), verdict);
    script(
        &mut recovered(Some(&Verdict::Taken { epoch: EPOCH })),
        vec![
            (Input::LinkUp, vec![say(Body::Taken), Effect::AskLater]),
            (hear(Body::Revoke), vec![say(Body::Taken)]),
            (hear(Body::Done), vec![Effect::Persist(Verdict::Forget)]),
        ],
    );
    let no = say(refused("it was refused before the destination restarted"));
    script(
        &mut recovered(Some(&Verdict::Refused { epoch: EPOCH })),
        vec![
            (Input::LinkUp, vec![no.clone(), Effect::AskLater]),
            (hear(Body::Commit), vec![no]),
        ],
    );
    let mut blank = recovered(None);
    script(
        &mut blank,
        vec![
            (Input::LinkUp, vec![]),
            (hear(Body::Resolve), vec![write_refused()]),
        ],
    );
    refuses(
        &mut blank,
        "the destination knows no such VM any more",
        false,
    );
}
