//! Scripts of both sides over a link that loses, repeats, holds back and breaks.

use std::ops::{Deref, DerefMut};

use super::super::destination::{DestinationOutcome, DiscardReason, Verdict};
use super::super::source::{Record, SourceOutcome, Why};
use super::model::Move;
use super::model::world::{Config, End, Job, Node, Session, Side, World};
use super::{D, EPOCH};

/// Both sides, their world, and the words to play with them.
struct Pair(World);

impl Deref for Pair {
    type Target = World;

    fn deref(&self) -> &World {
        &self.0
    }
}

impl DerefMut for Pair {
    fn deref_mut(&mut self) -> &mut World {
        &mut self.0
    }
}

impl Pair {
    fn new() -> Self {
        Self(World::new(Config::default()))
    }

    fn session(&self) -> &Session {
        &self.sessions[0]
    }

    fn s(&self) -> &Node {
        &self.nodes[0]
    }

    fn d(&self) -> &Node {
        &self.nodes[1]
    }

    #[track_caller]
    fn play(&mut self, step: Move) {
        if let Err(broken) = self.0.apply(&step) {
            panic!("{broken}, at {step:?}");
        }
    }

    fn on_the_wire(&self, operation: &str) -> Option<usize> {
        self.net
            .iter()
            .position(|packet| packet.body.operation() == operation)
    }

    #[track_caller]
    fn find(&self, operation: &str) -> usize {
        let index = self.on_the_wire(operation);
        index.unwrap_or_else(|| panic!("no `{operation}` in {:?}", self.net))
    }

    /// Goes on quietly until this message is on the wire.
    #[track_caller]
    fn until_sent(&mut self, operation: &str) {
        while self.on_the_wire(operation).is_none() {
            let step = self.calm();
            self.play(step.unwrap_or_else(|| panic!("`{operation}` is never sent")));
        }
    }

    /// Goes on quietly until this effect is being carried out.
    #[track_caller]
    fn until_begun(&mut self, side: Side, wanted: &Job) {
        while self.job(side, wanted).is_none() {
            let step = self.calm();
            self.play(step.unwrap_or_else(|| panic!("{wanted:?} never begins")));
        }
    }

    fn job(&self, side: Side, wanted: &Job) -> Option<usize> {
        let seat = match side {
            Side::Source => &self.session().s,
            Side::Destination => &self.session().d,
        };
        seat.jobs
            .iter()
            .position(|(job, stopped)| !stopped && job == wanted)
    }

    #[track_caller]
    fn deliver(&mut self, operation: &str) {
        self.play(Move::Deliver(self.find(operation)));
    }

    #[track_caller]
    fn duplicate(&mut self, operation: &str) {
        self.play(Move::Duplicate(self.find(operation)));
    }

    #[track_caller]
    fn drop_message(&mut self, operation: &str) {
        self.play(Move::Drop(self.find(operation)));
    }

    #[track_caller]
    fn fail(&mut self, side: Side, job: &Job) {
        self.until_begun(side, job);
        let index = self.job(side, job).unwrap();
        self.play(Move::Finish(0, side, index, End::Failed));
    }

    #[track_caller]
    fn cut(&mut self) {
        self.play(Move::Cut {
            wire: 0,
            lose: true,
        });
        self.play(Move::Notice(0, Side::Source));
        self.play(Move::Notice(0, Side::Destination));
    }

    /// Goes on quietly until nothing more happens, and looks at what is left.
    #[track_caller]
    fn rest(&mut self) {
        while let Some(step) = self.calm() {
            self.play(step);
        }
        if let Err(broken) = self.at_rest() {
            panic!("{broken}");
        }
    }

    #[track_caller]
    fn assert_moved(&mut self) {
        self.rest();
        assert!(self.d().runs && !self.s().runs && self.s().copy.is_none());
        assert_eq!(
            self.session().s_end,
            Some(SourceOutcome::Moved {
                node_uuid: D.into()
            })
        );
        assert_eq!(self.session().d_end, Some(DestinationOutcome::Running));
        let released = Record::Released {
            epoch: EPOCH,
            node_uuid: D.into(),
        };
        assert_eq!(self.session().record, Some(released));
    }

    #[track_caller]
    fn assert_stayed(&mut self, why: Why) {
        self.rest();
        assert!(self.s().runs && self.s().locked && !self.d().runs && self.d().copy.is_none());
        assert_eq!(
            self.session().s_end,
            Some(SourceOutcome::StayedHere { why })
        );
    }
}

fn taken() -> Job {
    Job::Verdict(Verdict::Taken { epoch: EPOCH })
}

fn granted() -> Job {
    Job::Record(Record::Granted {
        epoch: EPOCH,
        destination_uuid: D.into(),
    })
}

#[test]
fn a_quiet_migration_moves_the_vm() {
    Pair::new().assert_moved();
}

#[test]
fn every_message_of_a_migration_may_come_twice() {
    for operation in ["prepare", "prepared", "ready", "commit", "running", "done"] {
        let mut pair = Pair::new();
        pair.until_sent(operation);
        pair.duplicate(operation);
        pair.assert_moved();
    }
}

#[test]
fn what_is_lost_after_ready_is_asked_for() {
    for operation in ["ready", "commit", "running", "done"] {
        let mut pair = Pair::new();
        pair.until_sent(operation);
        pair.drop_message(operation);
        pair.assert_moved();
    }
}

#[test]
fn what_is_lost_before_ready_costs_nothing_but_the_migration() {
    for operation in ["prepare", "prepared"] {
        let mut pair = Pair::new();
        pair.until_sent(operation);
        pair.drop_message(operation);
        pair.assert_stayed(Why::Failed("the link to the destination was lost".into()));
    }
}

#[test]
fn a_cut_before_the_grant_leaves_the_vm_at_the_source() {
    let lost = || Why::Failed("the link to the destination was lost".into());
    for (side, job) in [
        (Side::Destination, Job::Build(true)),
        (Side::Source, Job::Attach),
        (Side::Source, Job::Copy),
        (Side::Source, Job::Pause),
        (Side::Source, Job::SendState),
        (Side::Destination, Job::Load),
    ] {
        let mut pair = Pair::new();
        pair.until_begun(side, &job);
        pair.cut();
        pair.assert_stayed(lost());
    }
    let mut pair = Pair::new();
    pair.until_sent("ready");
    pair.cut();
    pair.assert_stayed(lost());
}

#[test]
fn a_cut_after_the_grant_ends_where_the_grant_said() {
    for operation in ["commit", "running", "done"] {
        let mut pair = Pair::new();
        pair.until_sent(operation);
        pair.cut();
        pair.assert_moved();
    }
    for job in [Job::Lock, taken(), Job::Run] {
        let mut pair = Pair::new();
        pair.until_begun(Side::Destination, &job);
        pair.cut();
        pair.assert_moved();
    }
}

#[test]
fn nobody_runs_while_nobody_can_tell() {
    let mut pair = Pair::new();
    pair.until_sent("commit");
    pair.cut();
    pair.play(Move::Timer(0, Side::Source));
    assert_eq!(pair.session().s_end, Some(SourceOutcome::Unresolved));
    assert!(!pair.s().runs && !pair.d().runs);
    pair.assert_moved();
}

#[test]
fn a_failure_of_any_step_before_the_grant_leaves_the_vm_at_the_source() {
    for (side, job) in [
        (Side::Source, Job::Attach),
        (Side::Source, Job::Copy),
        (Side::Source, Job::Pause),
        (Side::Source, Job::SendState),
        (Side::Destination, Job::Receive),
        (Side::Destination, Job::Load),
    ] {
        let mut pair = Pair::new();
        pair.fail(side, &job);
        pair.assert_stayed(Why::Failed("broken".into()));
    }
    let mut pair = Pair::new();
    pair.fail(Side::Destination, &Job::Build(true));
    pair.assert_stayed(Why::Unfit(vec!["broken".into()]));
}

#[test]
fn a_failure_after_the_grant_comes_back_by_a_refusal() {
    let mut pair = Pair::new();
    pair.fail(Side::Destination, &Job::Lock);
    pair.assert_stayed(Why::Refused("the disks could not be locked: broken".into()));
    assert_eq!(
        pair.session().record,
        Some(Record::Mine { epoch: EPOCH + 1 })
    );

    let mut pair = Pair::new();
    pair.fail(Side::Destination, &taken());
    pair.assert_stayed(Why::Refused("the verdict could not be written".into()));
}

#[test]
fn a_grant_that_could_not_be_written_is_taken_back() {
    let mut pair = Pair::new();
    pair.fail(Side::Source, &granted());
    pair.assert_stayed(Why::Failed("the grant could not be written".into()));
    assert_eq!(
        pair.session().record,
        Some(Record::Aborted { epoch: EPOCH })
    );
}

#[test]
fn a_revoke_overtakes_the_commit() {
    let mut pair = Pair::new();
    pair.until_sent("commit");
    pair.play(Move::Limit(0));
    pair.deliver("revoke");
    pair.deliver("commit");
    pair.assert_stayed(Why::DowntimeLimit);
    let reason = "the source revoked the grant".to_owned();
    let why = DiscardReason::Refused(reason);
    assert_eq!(
        pair.session().d_end,
        Some(DestinationOutcome::Discarded { why })
    );
}

#[test]
fn a_revoke_that_comes_too_late_changes_nothing() {
    let mut pair = Pair::new();
    pair.until_begun(Side::Destination, &Job::Run);
    pair.play(Move::Limit(0));
    pair.deliver("revoke");
    pair.deliver("taken");
    pair.assert_moved();
}

#[test]
fn a_commit_held_back_over_a_refusal_is_refused() {
    let mut pair = Pair::new();
    pair.until_sent("commit");
    pair.duplicate("commit");
    pair.fail(Side::Destination, &Job::Lock);
    pair.until_sent("refused");
    pair.deliver("refused");
    while !pair.session().s.jobs.is_empty() {
        pair.play(Move::Finish(0, Side::Source, 0, End::Done));
    }
    assert!(pair.s().runs);
    pair.deliver("commit");
    pair.assert_stayed(Why::Refused("the disks could not be locked: broken".into()));
}

#[test]
fn a_source_killed_after_the_grant_is_survived_by_its_vm() {
    let mut pair = Pair::new();
    pair.until_sent("commit");
    pair.play(Move::Drop(pair.find("commit")));
    pair.play(Move::Crash(0, 0));
    pair.assert_moved();
}

#[test]
fn a_destination_killed_before_taken_is_survived_by_its_vm() {
    for job in [Job::Lock, taken()] {
        let mut pair = Pair::new();
        pair.until_begun(Side::Destination, &job);
        pair.play(Move::Crash(1, 0));
        pair.assert_stayed(Why::Refused(
            "the destination knows no such VM any more".into(),
        ));
    }
}

#[test]
fn a_destination_killed_after_taken_has_the_vm_and_it_is_failed() {
    let mut pair = Pair::new();
    pair.until_begun(Side::Destination, &taken());
    pair.play(Move::Crash(1, 1));
    pair.rest();
    assert!(!pair.s().runs && !pair.d().runs && pair.excused);
    assert_eq!(
        pair.session().s_end,
        Some(SourceOutcome::Moved {
            node_uuid: D.into()
        })
    );
}

#[test]
fn a_cancel_works_until_the_grant_is_being_written() {
    for job in [Job::Attach, Job::Copy, Job::Pause, Job::SendState] {
        let mut pair = Pair::new();
        pair.until_begun(Side::Source, &job);
        pair.play(Move::Cancel(0));
        pair.assert_stayed(Why::Cancelled);
    }
    let mut pair = Pair::new();
    pair.until_begun(Side::Source, &granted());
    pair.play(Move::Cancel(0));
    pair.assert_moved();
}

#[test]
fn a_destination_shut_down_gives_the_vm_back() {
    let mut pair = Pair::new();
    pair.until_sent("ready");
    pair.play(Move::Shutdown(0));
    pair.assert_stayed(Why::Refused("the destination is shutting down".into()));

    let mut pair = Pair::new();
    pair.until_begun(Side::Destination, &Job::Load);
    pair.play(Move::Shutdown(0));
    pair.assert_stayed(Why::Failed("the destination is shutting down".into()));
}
