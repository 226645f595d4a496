//! What the application says, as frames.

use std::time::Instant;

use super::super::live::{Call, Entry};
use super::super::{Id, is_free};
use super::{Accepted, Phase, ServerSession};
use crate::action::{Action, Item, Outcome};
use crate::error::{DWCPError, Result};
use crate::wire::frame::FrameType;
use crate::wire::message::{
    AuthReply, EXTENDED, Profile, SessionLimits, encode_base_error, encode_credit, encode_error,
    encode_item, encode_outcome,
};

/// An answer with nothing to say.
const NOTHING: &[u8] = b"{}";

impl ServerSession {
    /// Lets the peer in. It speaks the extended profile from here on if it asked for it.
    pub(crate) fn accept(&mut self, accepted: Accepted, now: Instant) {
        self.now = now;
        let Some((id, timestamp, extended)) = self.auth_in_question() else {
            return;
        };
        self.phase = Phase::Serving;
        let mut reply = AuthReply {
            success: true,
            message: accepted.message,
            ..AuthReply::default()
        };
        if extended {
            reply.features = vec![EXTENDED.to_owned()];
            reply.session = Some(accepted.session);
            reply.node = Some(accepted.node);
            reply.role = Some(accepted.role);
            reply.limits = Some(SessionLimits {
                max_frame: self.config.max_frame as u64,
                max_streams: self.config.max_streams,
                max_inflight: self.config.max_inflight,
            });
        }
        match reply.encode() {
            // The profile begins behind this frame.
            Ok(payload) => self.answer_small(FrameType::Vm, timestamp, &id, &payload),
            Err(error) => return self.close(Some(error)),
        }
        self.reader.set_max(self.config.max_frame);
        self.unread = self.reader.buffered() > 0;
        if extended {
            self.profile = Profile::Extended;
            self.keep_alive.heard(now);
            self.say_going_away();
        }
        self.settle();
        self.begin_limits();
    }

    /// Turns the peer away. The last event follows.
    pub(crate) fn refuse(&mut self, error: &DWCPError, now: Instant) {
        self.now = now;
        self.refused(error);
    }

    /// Its id, its timestamp, and whether it asks for the extended profile. `None` where there is none:
    /// the session may have been closed since.
    fn auth_in_question(&self) -> Option<(Id, u64, bool)> {
        match &self.phase {
            Phase::Answering {
                id,
                timestamp,
                extended,
            } => Some((Id::clone(id), *timestamp, *extended)),
            _ => None,
        }
    }

    pub(super) fn refused(&mut self, error: &DWCPError) {
        let Some((id, timestamp, extended)) = self.auth_in_question() else {
            return;
        };
        let reply = AuthReply {
            success: false,
            message: error.to_string(),
            ..AuthReply::default()
        };
        let payload = if extended {
            // Such a peer learns the code as well.
            let mut payload = br#"{"success":false,"#.to_vec();
            payload.extend_from_slice(encode_error(error, &id).get(1..).unwrap_or(b"}"));
            Ok(payload)
        } else {
            reply.encode()
        };
        match payload {
            Ok(payload) => self.answer_small(FrameType::Vm, timestamp, &id, &payload),
            Err(error) => return self.close(Some(error)),
        }
        self.close(Some(error.clone()));
    }

    /// Answers a call, refuses a stream, or answers a node-to-node frame: after an error the session goes
    /// on, and otherwise the connection is the hand-over's. Without effect when the id is not live. A
    /// stream with nothing to say ends well.
    pub(crate) fn reply(&mut self, id: &Id, result: Result<&Outcome, &DWCPError>) {
        if result.is_ok() && self.live.stream(id).is_some() {
            return self.end(id, None);
        }
        match self.live.remove(id) {
            Some(Entry::Call(call)) => self.answer(id, &call, result),
            Some(entry) => match result {
                Ok(_) => self.answer_small(self.reply_type(), 0, id, NOTHING),
                Err(error) => {
                    if matches!(entry, Entry::Peer) {
                        self.phase = Phase::Serving;
                        self.unread = self.reader.buffered() > 0;
                    }
                    self.error(id, 0, true, error);
                }
            },
            None => {}
        }
    }

    fn answer(&mut self, id: &Id, call: &Call, result: Result<&Outcome, &DWCPError>) {
        let outcome = match result {
            // What changes nothing can be asked again; it is not kept for a peer that does not read.
            Ok(_) if call.read_only && self.out.len() >= self.outbound_limit() => {
                let unread = DWCPError::ResourceLimit(format!(
                    "outbound: {} bytes wait for this connection to read them",
                    self.out.len()
                ));
                return self.answer_error(id, call, &unread);
            }
            Ok(outcome) => outcome,
            Err(error) => return self.answer_error(id, call, error),
        };
        let frame_type = self.reply_type();
        let sent = self.out.frame_with(frame_type, call.timestamp, id, |out| {
            out.extend_from_slice(&encode_outcome(outcome, call.style)?);
            Ok(())
        });
        if let Err(error) = sent {
            self.answer_error(id, call, &error);
        }
    }

    fn answer_error(&mut self, id: &Id, call: &Call, error: &DWCPError) {
        self.error(id, call.timestamp, call.parsed, error);
    }

    /// An error, as the profile writes it for an answer that clients parse or do not.
    pub(super) fn error(&mut self, id: &str, timestamp: u64, parsed: bool, error: &DWCPError) {
        match self.profile {
            Profile::Extended => {
                let payload = encode_error(error, id);
                self.answer_small(FrameType::Error, timestamp, id, &payload);
            }
            Profile::Base => {
                // Any action whose answer they do not parse will do.
                let action = (!parsed).then_some(&Action::Health);
                let payload = encode_base_error(error, action);
                self.answer_small(FrameType::Vm, timestamp, id, &payload);
            }
        }
    }

    fn reply_type(&self) -> FrameType {
        match self.profile {
            Profile::Extended => FrameType::Ok,
            Profile::Base => FrameType::Vm,
        }
    }

    /// An answer that is short, unless an error's text is not.
    pub(super) fn answer_small(
        &mut self,
        frame_type: FrameType,
        timestamp: u64,
        id: &str,
        payload: &[u8],
    ) {
        if let Err(error) = self.out.frame(frame_type, timestamp, id, payload) {
            self.out.small(frame_type, id, &encode_error(&error, id));
        }
    }

    /// Says that a stream is open. A console's peer may type from here on.
    pub(crate) fn opened(&mut self, id: &Id) {
        let Some(stream) = self.live.stream_mut(id) else {
            return;
        };
        if std::mem::replace(&mut stream.opened, true) {
            return;
        }
        let window = stream.typing.as_mut().map(|typing| typing.open());
        self.answer_small(FrameType::Ok, 0, id, NOTHING);
        if let Some(window) = window {
            self.out
                .small(FrameType::Credit, id, &encode_credit(0, window));
        }
    }

    /// Items that may be sent on a stream now: none while too much waits to be sent.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn credit(&self, id: &Id) -> u32 {
        match self.live.stream(id) {
            Some(stream) if stream.opened && !self.out.is_full() => stream.credit,
            _ => 0,
        }
    }

    /// Sends an item. False: it was not sent, because it may not be now, or because the stream is over;
    /// in the first case [`super::ServerEvent::Credit`] tells when it may. An item that cannot be
    /// written ends the stream with the error.
    pub(crate) fn item(&mut self, id: &Id, item: &Item) -> bool {
        let full = self.out.is_full();
        let Some(stream) = self.live.stream_mut(id) else {
            return false;
        };
        let price = u32::from(!is_free(item));
        if !stream.opened || stream.cancelled || stream.credit < price {
            return false;
        }
        if full {
            if !std::mem::replace(&mut stream.starved, true) {
                self.starved.push(Id::clone(id));
            }
            return false;
        }
        let sent = self.out.frame_with(FrameType::Item, 0, id, |out| {
            out.extend_from_slice(&encode_item(item)?);
            Ok(())
        });
        match sent {
            Ok(()) => {
                stream.credit -= price;
                true
            }
            Err(error) => {
                self.end(id, Some(&error));
                false
            }
        }
    }

    /// Ends a stream: END, or ERROR where it ends for a reason.
    pub(crate) fn end(&mut self, id: &Id, error: Option<&DWCPError>) {
        match self.live.stream(id) {
            Some(stream) if !stream.opened && error.is_none() => self.opened(id),
            Some(_) => {}
            None => return,
        }
        self.live.remove(id);
        match error {
            Some(error) => self.error(id, 0, true, error),
            None => self.answer_small(FrameType::End, 0, id, NOTHING),
        }
    }

    /// The application took so many of the bytes typed on a console: the peer may send more.
    pub(crate) fn data_taken(&mut self, id: &Id, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let grant = self
            .live
            .stream_mut(id)
            .filter(|stream| !stream.cancelled)
            .and_then(|stream| stream.typing.as_mut()?.take(bytes));
        if let Some(grant) = grant {
            self.out
                .small(FrameType::Credit, id, &encode_credit(0, grant));
        }
    }

    /// Serves nothing new: later requests are refused as `unavailable`. What is being answered, and
    /// streams, are the application's to end.
    pub(crate) fn go_away(&mut self, why: &str) {
        if self.going_away.is_none() && !self.is_closed() {
            self.going_away = Some(why.to_owned());
            if self.profile == Profile::Extended {
                self.say_going_away();
            }
        }
    }

    fn say_going_away(&mut self) {
        if let Some(why) = &self.going_away {
            let payload = serde_json::json!({ "message": why }).to_string();
            self.answer_small(FrameType::GoAway, 0, "", payload.as_bytes());
        }
    }

    /// What waits to be sent may pass `outbound_max` by what was under way, but not by any amount.
    fn outbound_limit(&self) -> usize {
        self.config
            .outbound_max
            .saturating_add(self.config.max_frame)
    }
}
