//! Asking a target what a migration to it would be like, without offering it the VM.
//!
//! On a connection of its own: the question, which is an offer that nobody is to accept, and the answer, the
//! list of what does not fit. Then frames of nothing in particular, each acknowledged, which show how fast
//! the link is. Nothing changes at the other side.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::link::{self, Dial};
use super::offer::Offer;
use crate::error::{DWCPError, Result};
use crate::model::Misfit;
use crate::transport::Blocking;
use crate::wire::frame::{Frame, FrameType};
use crate::wire::message::decode_error;

/// Bytes of a frame that measures the link.
const FILLER: usize = 1 << 20;
/// Frames that a peer takes for that: a fraction of a second on a fast link.
const FILLERS_MAX: usize = 16;
/// A link that has taken this long is known well enough.
const MEASURE: Duration = Duration::from_millis(100);

/// Could you take this VM?
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Probe {
    operation: Operation,
    /// The offer, as `Prepare` has it.
    pub(crate) payload: String,
}

/// Tells the question from other first words on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Operation {
    Probe,
}

/// What the target says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Answer {
    misfits: Vec<Misfit>,
    /// The memory would be handed over.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    handed: bool,
}

/// What was found out.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Findings {
    /// Everything that keeps the VM from going there.
    pub(crate) misfits: Vec<Misfit>,
    /// Both nodes are on one host: the memory would be handed over.
    pub(crate) handed: bool,
    /// Bytes per second that one connection takes.
    pub(crate) link: f64,
}

/// Asks a target, and measures the link. Blocks.
///
/// # Errors
///
/// Those of connecting, and the peer's own.
pub(crate) fn probe(peer: &Dial, offer: &Offer) -> Result<Findings> {
    let mut stream = link::connect(peer)?;
    stream.set_read_timeout(Some(peer.patience.silence()))?;
    stream.set_write_timeout(Some(peer.patience.silence()))?;
    let question = Probe {
        operation: Operation::Probe,
        payload: offer.encode()?,
    };
    let question = serde_json::to_vec(&question)?;
    link::write_frame(&mut stream, FrameType::Migration, question)?;
    let answer: Answer = serde_json::from_slice(&answered(&mut stream)?.payload)?;
    Ok(Findings {
        misfits: answer.misfits,
        handed: answer.handed,
        link: measure(&mut stream)?,
    })
}

/// Bytes per second, of the fastest frame: what others had of the link and of the processors meanwhile comes
/// and goes.
fn measure(stream: &mut Blocking) -> Result<f64> {
    let began = Instant::now();
    let mut best = 0.0_f64;
    for _ in 0..FILLERS_MAX {
        let sent = Instant::now();
        link::write_frame(stream, FrameType::Data, vec![0; FILLER])?;
        answered(stream)?;
        best = best.max(FILLER as f64 / sent.elapsed().as_secs_f64().max(1e-6));
        if began.elapsed() >= MEASURE {
            break;
        }
    }
    Ok(best)
}

fn answered(stream: &mut Blocking) -> Result<Frame> {
    match link::read_frame(stream)? {
        Some(frame) if frame.frame_type == FrameType::Ok => Ok(frame),
        Some(frame) if frame.frame_type == FrameType::Error => Err(decode_error(&frame.payload)),
        Some(frame) => Err(DWCPError::Protocol(format!(
            "the peer answered `probe` with a frame of type {:?}",
            frame.frame_type
        ))),
        None => Err(DWCPError::Connection(
            "the peer closed the connection in place of an answer".into(),
        )),
    }
}

/// Answers a peer, and lets it measure the link. Blocks until it closes the connection, falls silent for
/// `patience`, or has sent as much as it may.
///
/// # Errors
///
/// `connection` when it has gone; `invalid_message` for anything but what measures.
pub(crate) fn serve(
    stream: &mut Blocking,
    misfits: Vec<Misfit>,
    handed: bool,
    patience: Duration,
) -> Result<()> {
    let answer = serde_json::to_vec(&Answer { misfits, handed })?;
    link::write_frame(stream, FrameType::Ok, answer)?;
    stream.set_read_timeout(Some(patience))?;
    for _ in 0..FILLERS_MAX {
        match link::read_frame(stream)? {
            Some(frame) if frame.frame_type == FrameType::Data => {
                link::write_frame(stream, FrameType::Ok, b"{}".to_vec())?;
            }
            Some(frame) => {
                return Err(DWCPError::Protocol(format!(
                    "a frame of type {:?} after `probe`",
                    frame.frame_type
                )));
            }
            None => return Ok(()),
        }
    }
    Ok(())
}
