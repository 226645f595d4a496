//! The source's part of a hand-over that its record outlived: the node was started again, and the
//! VM's memory went with the process before.
//!
//! A granted VM may run on the destination, which is the only one to know. Whichever side reaches
//! the other first, the same state machine that drove the hand-over settles it: here, over one
//! connection, which may be closed at any time and opened again.

use std::collections::VecDeque;
use std::time::Duration;

use super::link::{self, Dial, Envelope};
use super::protocol::source::{Record, Source, SourceEffect, SourceInput, SourceOutcome};
use super::source::SourceHost;
use crate::error::{DWCPError, Result};
use crate::transport::Blocking;
use crate::wire::frame::FrameType;

/// A hand-over as the store has it.
pub(crate) struct Recovered<'a> {
    /// The migration's id.
    pub(crate) session: &'a str,
    pub(crate) record: Option<Record>,
    /// This node.
    pub(crate) node_uuid: &'a str,
    pub(crate) host: &'a dyn SourceHost,
}

impl Recovered<'_> {
    /// Asks the destination; how it ended, if that is known now. Blocks, for each answer as long as
    /// `patience`.
    ///
    /// # Errors
    ///
    /// `connection` when it cannot be reached, or does not answer.
    pub(crate) fn ask(self, peer: &Dial, patience: Duration) -> Result<Option<SourceOutcome>> {
        let stream = link::connect(peer)?;
        self.carry_on(stream, None, patience)
    }

    /// Answers the destination, which opened a connection and said `first`. Blocks, as
    /// [`ask`](Self::ask).
    ///
    /// # Errors
    ///
    /// `connection` when it does not go on.
    pub(crate) fn answer(
        self,
        stream: Blocking,
        first: Envelope,
        patience: Duration,
    ) -> Result<Option<SourceOutcome>> {
        self.carry_on(stream, Some(first), patience)
    }

    /// A later offer of this VM was accepted here: whoever made it has had the VM. Blocks until that is
    /// durable.
    ///
    /// # Errors
    ///
    /// `migration` when it could not be made so.
    pub(crate) fn outlived(self, epoch: u64) -> Result<Option<SourceOutcome>> {
        self.alone(SourceInput::Outlived { epoch })
    }

    /// Takes the VM back without the destination's word, unless it has one. Blocks, for that word as
    /// long as `patience`.
    ///
    /// # Errors
    ///
    /// `invalid_operation` when there is nothing to be forced.
    pub(crate) fn force(self, peer: &Dial, patience: Duration) -> Result<Option<SourceOutcome>> {
        match link::connect(peer).and_then(|stream| self.carry_on(stream, None, patience)) {
            Ok(Some(outcome)) => return Ok(Some(outcome)),
            // Whoever is there now does not know, and never will, or is not who was granted the VM.
            Ok(None) => {}
            Err(error) => tracing::info!(%error, session = self.session, "forced: nobody answers"),
        }
        self.alone(SourceInput::Force)
    }

    /// What follows from an input without a peer.
    fn alone(&self, input: SourceInput) -> Result<Option<SourceOutcome>> {
        let mut state = self.state(0);
        let mut inputs = VecDeque::from([input]);
        let (mut outcome, mut refused) = (None, None);
        while let Some(input) = inputs.pop_front() {
            for effect in state.handle(input) {
                if let SourceEffect::ForceRefused(why) = &effect {
                    refused = Some(DWCPError::InvalidOperation(why.to_string()));
                }
                self.carry_out(effect, &mut std::io::sink(), &mut inputs, &mut outcome)?;
            }
        }
        match (outcome, refused) {
            (Some(outcome), _) => Ok(Some(outcome)),
            (None, Some(refused)) => Err(refused),
            (None, None) => Err(DWCPError::Migration(
                "what became of the VM could not be written down; try again".into(),
            )),
        }
    }

    /// The hand-over as its record says; `epoch` where there is none.
    fn state(&self, epoch: u64) -> Source {
        let epoch = self.record.as_ref().map_or(epoch, Record::session_epoch);
        Source::recovered(self.session.to_owned(), epoch, self.record.clone())
    }

    fn carry_on(
        &self,
        mut stream: Blocking,
        first: Option<Envelope>,
        patience: Duration,
    ) -> Result<Option<SourceOutcome>> {
        stream.set_write_timeout(Some(patience))?;
        // Once settled, the peer only wants to hear so; but one that was forced must hear it.
        let forced = matches!(self.record, Some(Record::Forced { .. }));
        let settled = !forced && !matches!(self.record, Some(Record::Granted { .. }));
        let mut state = self.state(first.as_ref().map_or(0, |first| first.message.epoch));
        let mut inputs = VecDeque::from([SourceInput::LinkUp]);
        inputs.extend(first.map(received));
        let (mut outcome, mut broken) = (None, None);
        loop {
            while let Some(input) = inputs.pop_front() {
                for effect in state.handle(input) {
                    let carried = self.carry_out(effect, &mut stream, &mut inputs, &mut outcome);
                    // What was concluded holds, whether the peer heard of it or not.
                    broken = broken.or(carried.err());
                }
            }
            if outcome.is_some() {
                return Ok(outcome);
            }
            if let Some(error) = broken {
                return Err(error);
            }
            if settled || state.is_heard() {
                return Ok(None);
            }
            match link::next_message(&mut stream, patience)? {
                Some(envelope) => inputs.push_back(received(envelope)),
                None if forced => {
                    return Err(DWCPError::Connection(
                        "the peer went before it had heard of the force".into(),
                    ));
                }
                None => return Ok(None),
            }
        }
    }

    fn carry_out(
        &self,
        effect: SourceEffect,
        stream: &mut impl std::io::Write,
        inputs: &mut VecDeque<SourceInput>,
        outcome: &mut Option<SourceOutcome>,
    ) -> Result<()> {
        match effect {
            SourceEffect::Send(message) => {
                let envelope = Envelope {
                    from: self.node_uuid.to_owned(),
                    stamp: None,
                    timing: None,
                    message,
                };
                let payload = serde_json::to_vec(&envelope)?;
                link::write_frame(stream, FrameType::Migration, payload)?;
            }
            SourceEffect::Persist(record) => {
                inputs.push_back(match self.host.persist(&record) {
                    Ok(()) => SourceInput::Persisted,
                    Err(error) => {
                        tracing::error!(%error, ?record, "a record of a hand-over was not written");
                        SourceInput::PersistFailed
                    }
                });
            }
            SourceEffect::Release => self.host.release(),
            SourceEffect::Resume => inputs.push_back(SourceInput::Failed(
                "it was given back to this node, which was started again meanwhile: its memory is \
                 lost"
                    .into(),
            )),
            SourceEffect::Lock => inputs.push_back(SourceInput::Locked),
            SourceEffect::Finish(SourceOutcome::Unresolved) => {}
            SourceEffect::Finish(end) => {
                self.host.finished(&end);
                *outcome = Some(end);
            }
            // There is no machine, no channel and no clock; a peer that is not answered asks again.
            SourceEffect::AskLater
            | SourceEffect::Ignored(_)
            | SourceEffect::CancelRefused
            | SourceEffect::ForceRefused(_)
            | SourceEffect::Halt { .. }
            | SourceEffect::Unlock
            | SourceEffect::StopCopy
            | SourceEffect::Attach { .. }
            | SourceEffect::Copy
            | SourceEffect::Pause
            | SourceEffect::SendState => {}
        }
        Ok(())
    }
}

fn received(envelope: Envelope) -> SourceInput {
    SourceInput::Received {
        from: envelope.from,
        message: envelope.message,
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::sync::Mutex;

    use super::super::protocol::message::{Body, Message};
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    /// Writes down what it is told.
    #[derive(Default)]
    struct Told(Mutex<Vec<String>>);

    impl Told {
        fn say(&self, what: String) {
            self.0.lock().unwrap().push(what);
        }
    }

    impl SourceHost for Told {
        fn persist(&self, record: &Record) -> Result<()> {
            self.say(format!("{record:?}"));
            Ok(())
        }

        fn release(&self) {
            self.say("release".into());
        }

        fn finished(&self, outcome: &SourceOutcome) {
            self.say(format!("{outcome:?}"));
        }
    }

    fn granted() -> Option<Record> {
        Some(Record::Granted {
            epoch: 3,
            destination_uuid: "there".into(),
        })
    }

    fn says(from: &str, body: Body) -> Envelope {
        Envelope {
            from: from.into(),
            stamp: None,
            timing: None,
            message: Message {
                session: "m".into(),
                epoch: 3,
                body,
            },
        }
    }

    /// A destination that answers each message with the next of these, and what it heard.
    fn peer(answers: Vec<Envelope>) -> (Dial, std::thread::JoinHandle<Vec<Body>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Dial::from(listener.local_addr().unwrap());
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let (mut heard, mut answers) = (Vec::new(), answers.into_iter());
            while let Ok(Some(frame)) = link::read_frame(&mut stream) {
                let envelope: Envelope = serde_json::from_slice(&frame.payload).unwrap();
                heard.push(envelope.message.body);
                let Some(answer) = answers.next() else {
                    continue;
                };
                let payload = serde_json::to_vec(&answer).unwrap();
                link::write_frame(&mut stream, FrameType::Migration, payload).unwrap();
            }
            heard
        });
        (address, thread)
    }

    fn ask(answers: Vec<Envelope>) -> (Result<Option<SourceOutcome>>, Vec<Body>, Vec<String>) {
        let (address, thread) = peer(answers);
        let host = Told::default();
        let recovered = Recovered {
            session: "m",
            record: granted(),
            node_uuid: "here",
            host: &host,
        };
        let outcome = recovered.ask(&address, PATIENCE);
        (
            outcome,
            thread.join().unwrap(),
            host.0.into_inner().unwrap(),
        )
    }

    #[test]
    fn a_vm_that_was_taken_has_moved() {
        // A stranger's word does not count.
        let answers = vec![says("else", Body::Taken), says("there", Body::Pending)];
        let (address, thread) = peer(answers);
        let host = Told::default();
        let recovered = || Recovered {
            session: "m",
            record: granted(),
            node_uuid: "here",
            host: &host,
        };
        let silent = recovered().ask(&address, Duration::from_millis(100));
        assert!(silent.is_err(), "{silent:?}");
        assert_eq!(thread.join().unwrap(), [Body::Resolve]);
        assert!(host.0.lock().unwrap().is_empty());

        let answers = vec![says("there", Body::Pending), says("there", Body::Running)];
        let (outcome, heard, told) = ask(answers);
        assert!(matches!(outcome, Ok(Some(SourceOutcome::Moved { .. }))));
        assert_eq!(heard, [Body::Resolve, Body::Commit, Body::Done]);
        assert!(
            told[0].starts_with("Released") && told[1] == "release",
            "{told:?}"
        );
    }

    #[test]
    fn a_vm_that_was_refused_is_lost() {
        let reason = "no room".to_owned();
        let (outcome, heard, told) = ask(vec![says("there", Body::Refused { reason })]);
        assert!(matches!(outcome, Ok(Some(SourceOutcome::Lost { .. }))));
        assert_eq!(heard[0], Body::Resolve);
        assert!(told[0].starts_with("Mine { epoch: 4 }"), "{told:?}");
        assert!(!told.contains(&"release".to_owned()));
    }

    #[test]
    fn a_vm_is_forced_only_when_nobody_who_knows_answers() {
        let host = Told::default();
        let recovered = || Recovered {
            session: "m",
            record: granted(),
            node_uuid: "here",
            host: &host,
        };
        // The destination answers: that is the answer.
        let (address, thread) = peer(vec![says("there", Body::Running)]);
        let outcome = recovered().force(&address, PATIENCE);
        assert!(matches!(outcome, Ok(Some(SourceOutcome::Moved { .. }))));
        thread.join().unwrap();
        host.0.lock().unwrap().clear();
        // Nobody is there.
        let closed = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Dial::from(closed.local_addr().unwrap());
        drop(closed);
        let outcome = recovered().force(&address, PATIENCE);
        assert!(
            matches!(outcome, Ok(Some(SourceOutcome::Lost { .. }))),
            "{outcome:?}"
        );
        let told = std::mem::take(&mut *host.0.lock().unwrap());
        assert!(told[0].starts_with("Forced { epoch: 4"), "{told:?}");
        // There is nothing to be forced.
        let moved = Recovered {
            record: Some(Record::Released {
                epoch: 3,
                node_uuid: "there".into(),
            }),
            ..recovered()
        };
        let refused = moved.force(&address, PATIENCE);
        assert!(
            matches!(refused, Err(DWCPError::InvalidOperation(_))),
            "{refused:?}"
        );
        assert!(host.0.lock().unwrap().is_empty());
    }

    #[test]
    fn a_destination_is_told_of_a_force_until_it_has_heard() {
        let host = Told::default();
        let forced = || Recovered {
            session: "m",
            record: Some(Record::Forced {
                epoch: 4,
                destination_uuid: "there".into(),
            }),
            node_uuid: "here",
            host: &host,
        };
        let reason = "stopped".to_owned();
        let answers = vec![
            says("there", Body::Running),
            says("there", Body::Refused { reason }),
        ];
        let (address, thread) = peer(answers);
        assert!(matches!(forced().ask(&address, PATIENCE), Ok(None)));
        let superseded = Body::Superseded { epoch: 4 };
        let heard = thread.join().unwrap();
        assert_eq!(heard, [superseded.clone(), superseded, Body::Done]);
        // Who does not answer has not heard.
        let (address, thread) = peer(Vec::new());
        let silent = forced().ask(&address, Duration::from_millis(100));
        assert!(silent.is_err(), "{silent:?}");
        thread.join().unwrap();
        assert!(host.0.lock().unwrap().is_empty());
    }

    #[test]
    fn a_later_offer_settles_what_nobody_answered() {
        let host = Told::default();
        let recovered = Recovered {
            session: "m",
            record: granted(),
            node_uuid: "here",
            host: &host,
        };
        let outcome = recovered.outlived(5);
        assert!(matches!(outcome, Ok(Some(SourceOutcome::Moved { .. }))));
        let told = host.0.lock().unwrap();
        assert!(
            told[0].starts_with("Released") && told[1] == "release",
            "{told:?}"
        );
    }

    #[test]
    fn a_peer_that_comes_is_answered() {
        for (record, first, expected) in [
            (granted(), Body::Resolve, Body::Commit),
            (None, Body::Resolve, Body::Aborted),
            (
                Some(Record::Mine { epoch: 4 }),
                Body::Resolve,
                Body::Aborted,
            ),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let mut near = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (far, _) = listener.accept().unwrap();
            let host = Told::default();
            let recovered = Recovered {
                session: "m",
                record,
                node_uuid: "here",
                host: &host,
            };
            let first = says("there", first);
            let outcome = recovered.answer(far.into(), first, Duration::from_millis(20));
            assert!(!matches!(outcome, Ok(Some(_))), "{outcome:?}");
            let mut last = None;
            while let Ok(Some(frame)) = link::read_frame(&mut near) {
                let envelope: Envelope = serde_json::from_slice(&frame.payload).unwrap();
                last = Some(envelope.message.body);
            }
            assert_eq!(last, Some(expected));
        }
    }
}
