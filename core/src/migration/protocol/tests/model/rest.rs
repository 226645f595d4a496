//! How a world comes to rest once its trouble is over, and what must hold then.

use super::super::super::destination::DestinationOutcome;
use super::super::super::source::{Record, SourceOutcome};
use super::moves::Move;
use super::world::{Broken, End, Job, Side, World, hold, wire};

/// Longer than any quiet end takes.
const REST: usize = 400;

impl World {
    /// The move that a world without further trouble makes next; none when all is quiet. Jobs are
    /// done, messages come, wires heal, and last of all who waited asks again.
    pub(in crate::migration::protocol::tests) fn calm(&self) -> Option<Move> {
        let mut hopeless = None;
        for (k, session) in self.sessions.iter().enumerate() {
            for (side, seat) in [(Side::Source, &session.s), (Side::Destination, &session.d)] {
                for (index, (job, stopped)) in seat.jobs.iter().enumerate() {
                    if self.can_finish(k, job, *stopped) {
                        return Some(Move::Finish(k, side, index, End::Done));
                    }
                    if *job != Job::Receive {
                        hopeless = Some(Move::Finish(k, side, index, End::Failed));
                    }
                }
            }
        }
        if hopeless.is_some() {
            return hopeless;
        }
        if !self.net.is_empty() {
            return Some(Move::Deliver(0));
        }
        for (k, session) in self.sessions.iter().enumerate() {
            let up = self.wires[wire(session.from, session.to)];
            for (side, seat) in [(Side::Source, &session.s), (Side::Destination, &session.d)] {
                if seat.up && !up {
                    return Some(Move::Notice(k, side));
                }
                let somebody = side == Side::Source || session.destination.is_some();
                if !seat.up && up && somebody {
                    return Some(Move::Up(k, side));
                }
            }
        }
        if let Some(down) = self.wires.iter().position(|up| !up) {
            return Some(Move::Heal(down));
        }
        if self.sessions.iter().any(|s| s.s.timer || s.d.timer) {
            return Some(Move::Timers);
        }
        // A driver that hears nothing more gives the connection up.
        let (k, silent) = self
            .sessions
            .iter()
            .enumerate()
            .find(|(k, _)| self.waits(*k))?;
        debug_assert!(k < self.sessions.len());
        Some(Move::Cut {
            wire: wire(silent.from, silent.to),
            lose: true,
        })
    }

    /// Whether a driver waits for a message.
    fn waits(&self, k: usize) -> bool {
        let session = &self.sessions[k];
        let arriving = self.nodes[session.to].copy == Some(k + 1) && session.d_end.is_none();
        let taken = session.verdict.is_some() || session.forgot.is_some();
        let leaving = self.nodes[session.from].copy.is_some() && session.s_end.is_none();
        (arriving && !taken) || (leaving && !session.over)
    }

    /// Follows the calm moves to the end. `known` says of a world that its end is known to be right.
    pub(super) fn comes_to_rest(
        &self,
        mut known: impl FnMut(&World) -> bool,
    ) -> Result<(), Broken> {
        let (mut world, mut last) = (self.clone(), Vec::new());
        for left in (0..REST).rev() {
            if known(&world) {
                return Ok(());
            }
            let Some(step) = world.calm() else {
                return world.at_rest();
            };
            world.apply(&step)?;
            if left < 20 {
                last.push(step);
            }
        }
        hold!(
            self,
            Force,
            world.runners() <= 1,
            "two run for ever: {last:?}"
        );
        hold!(self, Resolved, false, "it never comes to rest: {last:?}");
        Ok(())
    }

    /// What holds when all is quiet: one runs, or it was said why nobody does; and nothing is left
    /// undecided.
    pub(in crate::migration::protocol::tests) fn at_rest(&self) -> Result<(), Broken> {
        let runners = self.runners();
        let lost = self.sessions.iter().any(|session| {
            matches!(session.s_end, Some(SourceOutcome::Lost { .. }))
                || matches!(session.d_end, Some(DestinationOutcome::Lost { .. }))
        });
        hold!(self, Force, runners <= 1, "two run for ever");
        hold!(
            self,
            Lost,
            runners == 1 || lost || self.excused,
            "nobody runs, and nobody said so"
        );
        for (k, session) in self.sessions.iter().enumerate() {
            hold!(
                self,
                Resolved,
                session.s_end != Some(SourceOutcome::Unresolved),
                "session {k} is unresolved for ever"
            );
            let granted = matches!(session.record, Some(Record::Granted { .. }));
            hold!(self, Resolved, !granted, "session {k} is granted for ever");
            hold!(
                self,
                Resolved,
                session.verdict.is_none(),
                "{:?} of session {k} is never forgotten",
                session.verdict
            );
        }
        for (number, node) in self.nodes.iter().enumerate() {
            let told = lost
                || self.sessions.iter().any(|session| {
                    session.to == number
                        && matches!(session.d_end, Some(DestinationOutcome::Superseded { .. }))
                });
            hold!(
                self,
                Resolved,
                node.runs || node.copy.is_none() || told,
                "node {number} keeps a VM that does not run"
            );
        }
        Ok(())
    }
}
