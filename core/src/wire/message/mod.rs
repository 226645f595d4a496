//! What the frames of a connection say: requests, replies, errors and items, from and to their bytes.
//!
//! The session asks here what a frame means and what an answer looks like; nothing here knows of ids,
//! credit or order. Both profiles are read by one reader: `operation` is a number, a word or absent
//! ([`decode`]). Our own client writes words ([`encode`]). Replies and errors are written in either
//! profile ([`reply`], [`error`]), and read in the extended one. Front ends that carry JSON themselves
//! get the same forms without frames ([`front`]).
//!
//! Requests are read strictly: a field that is not known is an error which names it, and none is
//! ignored, but for AUTH, in which newer peers offer what older ones do not know. Replies are read
//! leniently. Whether the values are allowed is asked elsewhere, of
//! [`Action::validate`](crate::action::Action::validate).

mod auth;
mod base64;
mod decode;
mod encode;
mod error;
mod fields;
mod front;
#[cfg(any(test, fuzzing))]
mod fuzz;
mod item;
mod reply;
#[cfg(test)]
mod tests;

use std::time::Duration;

use super::frame::FrameType;
use crate::action::{Action, Subscription};
use crate::error::Result;

pub(crate) use auth::{AuthReply, AuthRequest, ClientName, NodeName, SessionLimits};
pub(crate) use error::{decode_error, encode_base_error, encode_base_refusal, encode_error};
#[cfg(any(test, fuzzing))]
pub(crate) use fuzz::fuzz_messages;
pub(crate) use item::{ItemKind, decode_credit, decode_item, encode_credit, encode_item};
pub(crate) use reply::{Reply, Style, decode_outcome, encode_outcome};

/// The protocol's version, as AUTH says it.
pub(crate) const VERSION: u32 = 3;
/// The feature by which the extended profile is asked for, and granted.
pub(crate) const EXTENDED: &str = "x3.1";
/// Longest payload of a request in bytes. A config with all that is allowed in it has 1.2 MiB, and so
/// has the offer of such a VM to a peer; what is read into values can take thirty times as much.
pub(crate) const REQUEST_MAX: usize = 2 << 20;

/// Which of the two profiles a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    /// What the SDKs in the field speak.
    Base,
    /// What AUTH negotiates, and our client speaks.
    Extended,
}

/// What a peer asks, decoded.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Request {
    /// Who it is.
    Auth(AuthRequest),
    /// Something with one answer.
    Call {
        action: Action,
        /// How long the peer waits for it.
        deadline: Option<Duration>,
    },
    /// A stream.
    Subscribe {
        subscription: Subscription,
        /// Items that may be sent at once.
        credit: u32,
        /// How long the peer waits for it to be opened.
        deadline: Option<Duration>,
    },
    /// A node-to-node message of a migration, or what opens one of its bulk channels. It is handed on
    /// as it came: only the migration knows what it says.
    Peer,
}

impl Request {
    /// Reads a request.
    ///
    /// # Errors
    ///
    /// `invalid_message` starting with the field that is wrong, unknown or missing; `invalid_config`
    /// for what a config or options say; `unsupported` where the profile has no such operation;
    /// `resource_limit` for more than [`REQUEST_MAX`]. On a connection of the base profile,
    /// [`encode_base_refusal`] writes the answer to it.
    pub(crate) fn decode(
        frame_type: FrameType,
        payload: &[u8],
        profile: Profile,
    ) -> Result<Request> {
        decode::request(frame_type, payload, profile)
    }

    /// Writes a request as our client does, in the extended profile.
    ///
    /// # Errors
    ///
    /// `invalid_operation` for [`Request::Peer`], which has no form here.
    pub(crate) fn encode(&self) -> Result<(FrameType, Vec<u8>)> {
        match self {
            Request::Auth(auth) => Ok((FrameType::Auth, auth.encode()?)),
            Request::Call { action, deadline } => encode::call(action, *deadline),
            Request::Subscribe {
                subscription,
                credit,
                deadline,
            } => encode::subscribe(subscription, *credit, *deadline),
            Request::Peer => Err(crate::error::DWCPError::InvalidOperation(
                "a message between nodes is written by the migration".into(),
            )),
        }
    }
}
