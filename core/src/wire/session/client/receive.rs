//! Frames of a node, and the events they become.

use super::super::keep_alive::KeepAlive;
use super::super::{PING_PAYLOAD_MAX, is_free};
use super::{AUTH_ID, ClientEvent, ClientSession, Pending, Phase, base, number, text};
use crate::error::{DWCPError, Result};
use crate::wire::frame::{FrameRef, FrameType};
use crate::wire::message::{
    AuthReply, EXTENDED, Profile, decode_credit, decode_error, decode_item, decode_outcome,
};

impl ClientSession {
    /// Looks at one frame.
    pub(super) fn frame(&mut self, frame: FrameRef<'_>) {
        let understood = if self.phase == Phase::Authenticating {
            self.authenticated(frame);
            Ok(())
        } else {
            match self.profile {
                Profile::Extended => self.extended(frame),
                Profile::Base => self.base(frame),
            }
        };
        if let Err(error) = understood {
            self.close(error);
        }
    }

    /// The answer to AUTH, or what came instead.
    fn authenticated(&mut self, frame: FrameRef<'_>) {
        match self.read_auth(frame) {
            Ok(reply) => {
                self.phase = Phase::Ready;
                self.events.push_back(ClientEvent::Ready(reply));
            }
            Err(error) => {
                self.shut();
                self.events.push_back(ClientEvent::Refused(error));
            }
        }
    }

    fn read_auth(&mut self, frame: FrameRef<'_>) -> Result<AuthReply> {
        if number(frame.head.id) != Some(AUTH_ID) && !frame.head.id.is_empty() {
            return Err(DWCPError::Protocol(format!(
                "the node answered {:?} before AUTH",
                frame.head.id
            )));
        }
        let reply = match frame.head.frame_type {
            FrameType::Vm | FrameType::Ok => match base::error(frame.payload) {
                Some(error) => return Err(error),
                None => AuthReply::decode(frame.payload)?,
            },
            FrameType::Error => return Err(decode_error(frame.payload)),
            other => {
                return Err(DWCPError::Protocol(format!(
                    "the node answered AUTH with a frame of type {other:?}"
                )));
            }
        };
        if !reply.success {
            return Err(base::refusal(&reply, frame.payload));
        }
        if reply.features.iter().any(|feature| feature == EXTENDED) {
            self.keep_alive = self
                .config
                .keep_alive
                .map(|period| KeepAlive::new(period, self.now));
        } else if self.config.accept_base {
            self.profile = Profile::Base;
        } else {
            return Err(DWCPError::Unsupported(format!(
                "{EXTENDED}: the node does not grant the extended profile"
            )));
        }
        if let Some(limits) = &reply.limits {
            let limit = |said: u32| if said == 0 { u32::MAX } else { said };
            self.max_inflight = limit(limits.max_inflight);
            self.max_streams = limit(limits.max_streams);
            if let Ok(max_frame @ 1..) = usize::try_from(limits.max_frame) {
                self.out.frame_max = self.out.frame_max.min(max_frame);
            }
        }
        Ok(reply)
    }

    /// # Errors
    ///
    /// Why the connection cannot go on.
    fn extended(&mut self, frame: FrameRef<'_>) -> Result<()> {
        match frame.head.frame_type {
            FrameType::Ping if frame.payload.len() <= PING_PAYLOAD_MAX => {
                self.out
                    .small(FrameType::Pong, frame.head.id, frame.payload);
            }
            FrameType::Pong => {}
            FrameType::GoAway => self.goes_away(frame.payload),
            // Not the answer to anything: why the node closes the connection.
            FrameType::Error if frame.head.id.is_empty() => {
                return Err(decode_error(frame.payload));
            }
            FrameType::Ok
            | FrameType::Error
            | FrameType::Item
            | FrameType::End
            | FrameType::Credit => {
                let id = number(frame.head.id).filter(|id| self.pending.contains_key(id));
                let id = id.ok_or_else(|| unexpected(frame))?;
                return self.answer(id, frame);
            }
            _ => return Err(unexpected(frame)),
        }
        Ok(())
    }

    fn answer(&mut self, id: u64, frame: FrameRef<'_>) -> Result<()> {
        let payload = frame.payload;
        match (frame.head.frame_type, self.pending.get_mut(&id)) {
            (FrameType::Ok, Some(Pending::Call(reply))) => {
                let result = decode_outcome(*reply, payload);
                self.finish(id);
                self.events.push_back(ClientEvent::Reply { id, result });
            }
            (FrameType::Ok, Some(Pending::Stream(stream))) if !stream.opened => {
                stream.opened = true;
                self.events.push_back(ClientEvent::Opened { id });
            }
            (FrameType::Item, Some(Pending::Stream(stream))) => {
                if !stream.opened {
                    return Err(unexpected(frame));
                }
                let item = decode_item(stream.kind, payload);
                if !item.as_ref().is_ok_and(is_free) && !stream.spend() {
                    return Err(DWCPError::Protocol(format!(
                        "the node sent an item of stream {id} beyond its credit"
                    )));
                }
                if stream.cancelled {
                    return Ok(());
                }
                match item {
                    Ok(item) => self.events.push_back(ClientEvent::Item { id, item }),
                    Err(error) => {
                        stream.ended = true;
                        self.cancel(id);
                        let error = Some(error);
                        self.events.push_back(ClientEvent::Ended { id, error });
                    }
                }
            }
            (FrameType::Credit, Some(Pending::Stream(stream))) => {
                let (items, bytes) = decode_credit(payload)?;
                if items != 0 {
                    return Err(unexpected(frame));
                }
                stream.grant(bytes);
                stream.flush(text(id).as_str(), &mut self.out);
            }
            (FrameType::End, Some(Pending::Stream(stream))) if stream.opened => {
                let told = stream.ended;
                self.finish(id);
                if !told {
                    self.events
                        .push_back(ClientEvent::Ended { id, error: None });
                }
            }
            (FrameType::Error, Some(pending)) => {
                let error = decode_error(payload);
                let event = match pending {
                    Pending::Stream(stream) if stream.ended => None,
                    Pending::Stream(stream) if stream.opened => Some(ClientEvent::Ended {
                        id,
                        error: Some(error),
                    }),
                    _ => Some(ClientEvent::Reply {
                        id,
                        result: Err(error),
                    }),
                };
                self.finish(id);
                self.events.extend(event);
            }
            _ => return Err(unexpected(frame)),
        }
        Ok(())
    }

    /// A reply of the base profile.
    fn base(&mut self, frame: FrameRef<'_>) -> Result<()> {
        let id = number(frame.head.id).filter(|_| frame.head.frame_type == FrameType::Vm);
        let pending = id.and_then(|id| Some((id, self.pending.get(&id)?)));
        let Some((id, Pending::Call(reply))) = pending else {
            return Err(unexpected(frame));
        };
        let result = base::outcome(*reply, frame.payload);
        self.finish(id);
        self.events.push_back(ClientEvent::Reply { id, result });
        Ok(())
    }

    fn finish(&mut self, id: u64) {
        if let Some(Pending::Stream(_)) = self.pending.remove(&id) {
            self.streams -= 1;
        }
    }

    fn goes_away(&mut self, payload: &[u8]) {
        if self.phase != Phase::Ready {
            return;
        }
        self.phase = Phase::Leaving;
        let said: Option<serde_json::Value> = serde_json::from_slice(payload).ok();
        let why = said
            .as_ref()
            .and_then(|said| said.get("message")?.as_str())
            .unwrap_or("the node goes away")
            .to_owned();
        self.events.push_back(ClientEvent::GoAway { why });
    }
}

fn unexpected(frame: FrameRef<'_>) -> DWCPError {
    DWCPError::Protocol(format!(
        "the node sent {:?} for {:?}, where it may not",
        frame.head.frame_type, frame.head.id
    ))
}
