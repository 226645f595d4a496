//! Where a VM is, as another node knows it.
//!
//! A node asks before it runs a VM again that its store has: the store may be an old backup, and the
//! VM may have moved away since. And a source asks before it believes who answers about a hand-over:
//! a node that was reinstalled, or that has an old store, knows nothing of it.
//!
//! One question and one answer on a connection of their own; neither changes anything at the other
//! side.

#![forbid(unsafe_code)]

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::link::{self, Dial};
use crate::error::{DWCPError, Result};
use crate::model::{VMState, validate};
use crate::transport::Blocking;
use crate::wire::frame::FrameType;
use crate::wire::message::decode_error;

/// Most VMs in one question: with the longest ids and names its answer fits a frame.
pub(crate) const VMS_MAX: usize = 1024;
/// Time for a peer to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where are these VMs?
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Question {
    operation: Operation,
    /// Their ids.
    pub(crate) vms: Vec<String>,
}

/// Tells the question from other first words on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Operation {
    Whereabouts,
}

/// What a node knows of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// The UUID of its store.
    pub(crate) node_uuid: String,
    /// Of each VM that was asked about, in that order.
    pub(crate) vms: Vec<Whereabouts>,
}

/// What a node knows of one VM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Whereabouts {
    pub(crate) vm_id: String,
    /// The last epoch under which that node sent it away or let it come; 0 for none.
    pub(crate) epoch: u64,
    /// Its state, where that node has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) state: Option<VMState>,
    /// That node has it only on its way there.
    #[serde(default)]
    pub(crate) arriving: bool,
    /// Where it went from there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) moved_to: Option<String>,
}

impl Question {
    fn new(vms: &[String]) -> Self {
        Self {
            operation: Operation::Whereabouts,
            vms: vms.to_vec(),
        }
    }

    /// # Errors
    ///
    /// `resource_limit` for too many VMs, `invalid_config` for what is no id.
    pub(super) fn check(self) -> Result<Self> {
        if self.vms.len() > VMS_MAX {
            return Err(DWCPError::ResourceLimit(format!(
                "whereabouts: {} VMs in one question; {VMS_MAX} is the limit",
                self.vms.len()
            )));
        }
        for vm in &self.vms {
            validate::id("vms", vm)?;
        }
        Ok(self)
    }
}

/// Asks a peer; what it knows of each of these VMs, in this order. Blocks.
///
/// # Errors
///
/// Those of connecting, and the peer's own; `invalid_message` for an answer to another question.
pub(crate) fn ask(peer: &Dial, vms: &[String]) -> Result<Answer> {
    let mut parts = vms.chunks(VMS_MAX);
    let mut all = ask_one(peer, parts.next().unwrap_or_default())?;
    for part in parts {
        let answer = ask_one(peer, part)?;
        if answer.node_uuid != all.node_uuid {
            return Err(DWCPError::Connection(
                "the peer's store was exchanged while it was asked".into(),
            ));
        }
        all.vms.extend(answer.vms);
    }
    Ok(all)
}

fn ask_one(peer: &Dial, vms: &[String]) -> Result<Answer> {
    let mut stream = link::connect(peer)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let question = serde_json::to_vec(&Question::new(vms))?;
    link::write_frame(&mut stream, FrameType::Migration, question)?;
    let answer: Answer = match link::read_frame(&mut stream)? {
        Some(frame) if frame.frame_type == FrameType::Ok => serde_json::from_slice(&frame.payload)?,
        Some(frame) if frame.frame_type == FrameType::Error => {
            return Err(decode_error(&frame.payload));
        }
        Some(frame) => {
            return Err(DWCPError::Protocol(format!(
                "the peer answered `whereabouts` with a frame of type {:?}",
                frame.frame_type
            )));
        }
        None => {
            return Err(DWCPError::Connection(
                "the peer closed the connection in place of an answer".into(),
            ));
        }
    };
    let answered = answer.vms.iter().map(|own| &own.vm_id);
    if !answered.eq(vms) {
        return Err(DWCPError::Protocol(
            "the peer answered about other VMs than it was asked about".into(),
        ));
    }
    Ok(answer)
}

/// Answers a peer.
///
/// # Errors
///
/// `connection` when it has gone.
pub(crate) fn answer(stream: &mut Blocking, answer: &Answer) -> Result<()> {
    link::write_frame(stream, FrameType::Ok, serde_json::to_vec(answer)?)
}

/// Asks whether the peer has the store `uuid`, to which a VM was granted under `epoch`, and has it as
/// it was then; why its word does not count, if it does not. Blocks.
///
/// # Errors
///
/// As [`ask`].
pub(crate) fn recognise(
    peer: &Dial,
    vm_id: &str,
    uuid: &str,
    epoch: u64,
) -> Result<Option<String>> {
    let answer = ask(peer, &[vm_id.to_owned()])?;
    Ok(why_stranger(&answer, uuid, epoch))
}

fn why_stranger(answer: &Answer, uuid: &str, epoch: u64) -> Option<String> {
    if answer.node_uuid != uuid {
        return Some(format!(
            "another node answers at its address, or it was reinstalled: the VM was granted to the \
             store {uuid}, and that is {}",
            answer.node_uuid
        ));
    }
    // It wrote the epoch down before it accepted the offer.
    let seen = answer.vms.first().map_or(0, |own| own.epoch);
    (seen < epoch).then(|| {
        format!(
            "its store is older than the hand-over, as if it had been restored from a backup: it \
             has seen epoch {seen} of the VM, which was granted under {epoch}"
        )
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::super::link::Greeting;
    use super::*;

    fn known(vm_id: &str, epoch: u64) -> Whereabouts {
        Whereabouts {
            vm_id: vm_id.into(),
            epoch,
            ..Whereabouts::default()
        }
    }

    /// A peer that answers each question by `say`, so many times.
    fn peer(times: usize, say: impl Fn(&Question) -> Answer + Send + 'static) -> Dial {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let dial = Dial::from(listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for _ in 0..times {
                let mut stream: Blocking = listener.accept().unwrap().0.into();
                let frame = link::read_frame(&mut stream).unwrap().unwrap();
                match Greeting::parse(&frame).unwrap() {
                    Greeting::Whereabouts(question) => {
                        answer(&mut stream, &say(&question)).unwrap();
                    }
                    other => panic!("{other:?}"),
                }
            }
        });
        dial
    }

    fn all(question: &Question) -> Answer {
        Answer {
            node_uuid: "there".into(),
            vms: question.vms.iter().map(|vm| known(vm, 3)).collect(),
        }
    }

    #[test]
    fn a_peer_is_asked_in_parts_about_many_vms() {
        let vms: Vec<String> = (0..=VMS_MAX).map(|n| format!("vm-{n}")).collect();
        let answer = ask(&peer(2, all), &vms).unwrap();
        assert_eq!(answer.vms.len(), vms.len());
        assert_eq!(answer.vms[VMS_MAX], known(&vms[VMS_MAX], 3));
    }

    #[test]
    fn the_answer_to_another_question_is_refused() {
        let other = |_: &Question| Answer {
            node_uuid: "there".into(),
            vms: vec![known("b", 1)],
        };
        let error = ask(&peer(1, other), &["a".into()]).unwrap_err();
        assert!(matches!(error, DWCPError::Protocol(_)), "{error}");
    }

    #[test]
    fn a_question_is_limited() {
        let many = Question::new(&vec!["a".to_owned(); VMS_MAX + 1]);
        assert!(matches!(many.check(), Err(DWCPError::ResourceLimit(_))));
        let long = Question::new(&["a".repeat(4096)]);
        assert!(matches!(long.check(), Err(DWCPError::Config(_))));
    }

    #[test]
    fn only_the_store_that_was_granted_to_is_recognised() {
        let ask = |uuid: &str, epoch| recognise(&peer(1, all), "a", uuid, epoch).unwrap();
        assert_eq!(ask("there", 3), None);
        let reinstalled = ask("elsewhere", 3).unwrap();
        assert!(reinstalled.contains("reinstalled"), "{reinstalled}");
        let old = ask("there", 4).unwrap();
        assert!(old.contains("backup"), "{old}");
    }
}
