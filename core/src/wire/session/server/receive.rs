//! Frames of a peer, and the events they become.

use bytes::Bytes;

use super::super::live::{Call, Entry, Stream, Typing};
use super::super::{Id, PING_PAYLOAD_MAX};
use super::{Phase, ServerEvent, ServerSession};
use crate::action::Subscription;
use crate::error::{DWCPError, Result};
use crate::wire::frame::{FrameRef, FrameType, Head};
use crate::wire::message::{
    Profile, Reply, Request, Style, decode_credit, encode_base_error, encode_base_refusal,
    encode_error,
};

impl ServerSession {
    /// Looks at one frame.
    pub(super) fn frame(&mut self, frame: FrameRef<'_>) {
        use FrameType::{
            Auth, Cancel, Config, Credit, Data, Health, Metrics, Migration, Ping, Pong, Snapshot,
            Stream, Vm,
        };
        let id = frame.head.id;
        match (frame.head.frame_type, self.profile) {
            (Auth, _) => self.auth(frame),
            (Vm | Stream | Migration | Health | Metrics | Config | Snapshot, _) => {
                self.request(frame);
            }
            (Cancel, Profile::Extended) => self.cancel(id),
            (Credit, Profile::Extended) => self.credited(id, frame.payload),
            (Data, Profile::Extended) => self.data(id, frame.payload),
            (Ping, Profile::Extended) if frame.payload.len() <= PING_PAYLOAD_MAX => {
                self.out.small(FrameType::Pong, id, frame.payload);
            }
            // That something arrived is all it says.
            (Pong, Profile::Extended) => {}
            (other, _) => {
                let what = format!("the peer sent a frame of type {other:?}, which it may not");
                self.violation(Some(id), DWCPError::Protocol(what));
            }
        }
    }

    /// The peer did what ends a connection.
    pub(super) fn violation(&mut self, id: Option<&str>, error: DWCPError) {
        // The answer to a live id is that to the request which has it, and this is not.
        let id = id.filter(|id| !self.live.contains(id)).unwrap_or("");
        match self.profile {
            Profile::Extended => {
                let payload = encode_error(&error, id);
                self.out.small(FrameType::Error, id, &payload);
            }
            // Without an id, it would be a frame that nobody asked for.
            Profile::Base if id.is_empty() => {}
            Profile::Base => {
                let payload = encode_base_error(&error, None);
                self.out.small(FrameType::Vm, id, &payload);
            }
        }
        self.close(Some(error));
    }

    fn auth(&mut self, frame: FrameRef<'_>) {
        let head = frame.head;
        if self.live.contains(head.id) {
            return self.live_again(head.id);
        }
        if self.auth_seen || !self.live.is_empty() {
            let late = DWCPError::Protocol("AUTH comes once, before all else".into());
            return self.refuse_request(head, frame.payload, &late);
        }
        self.auth_seen = true;
        self.auth_limit = None;
        let answering = |extended| Phase::Answering {
            id: Id::from(head.id),
            timestamp: head.timestamp,
            extended,
        };
        match Request::decode(head.frame_type, frame.payload, self.profile) {
            Ok(Request::Auth(request)) => {
                self.phase = answering(request.wants_extended());
                self.events.push_back(ServerEvent::Auth(request));
            }
            Ok(_) => {
                self.phase = answering(false);
                self.refused(&DWCPError::Internal("AUTH was read as a request".into()));
            }
            Err(error) => {
                self.phase = answering(false);
                self.refused(&error);
            }
        }
    }

    fn request(&mut self, frame: FrameRef<'_>) {
        let head = frame.head;
        if matches!(self.phase, Phase::First) {
            let error = DWCPError::Authentication("this node requires AUTH first".into());
            self.refuse_request(head, frame.payload, &error);
            return self.close(Some(error));
        }
        if self.live.contains(head.id) {
            return self.live_again(head.id);
        }
        let request = Request::decode(head.frame_type, frame.payload, self.profile);
        // An extended peer could not tell the answer from an error that concerns the connection.
        if head.id.is_empty()
            && self.profile == Profile::Extended
            && !matches!(request, Ok(Request::Peer))
        {
            let nameless = DWCPError::Protocol("the peer sent a request without an id".into());
            return self.violation(None, nameless);
        }
        let served = request.and_then(|request| self.serve(frame, request));
        if let Err(error) = served {
            self.refuse_request(head, frame.payload, &error);
        }
    }

    /// A live id cannot have a second answer.
    fn live_again(&mut self, id: &str) {
        let again = DWCPError::Protocol(format!(
            "the peer used the id {id:?} again before its answer"
        ));
        self.violation(None, again);
    }

    /// # Errors
    ///
    /// Why it is not served; then its id is free again.
    fn serve(&mut self, frame: FrameRef<'_>, request: Request) -> Result<()> {
        // What nodes say to each other belongs to migrations that run.
        if let Some(why) = &self.going_away
            && !matches!(request, Request::Peer)
        {
            return Err(DWCPError::Unavailable(why.clone()));
        }
        let id = Id::from(frame.head.id);
        match request {
            Request::Call { action, deadline } => {
                if self.live.calls >= self.config.max_inflight {
                    return Err(DWCPError::ResourceLimit(format!(
                        "max_inflight: {} requests are being answered on this connection",
                        self.live.calls
                    )));
                }
                let call = Entry::Call(Call {
                    timestamp: frame.head.timestamp,
                    style: match self.profile {
                        Profile::Base => Style::base(&action, frame.head.timestamp),
                        Profile::Extended => Style::Extended,
                    },
                    parsed: is_parsed(Reply::of(&action)),
                    read_only: action.is_read_only(),
                    cancelled: false,
                    request_bytes: frame.payload.len(),
                });
                self.live.insert(Id::clone(&id), call);
                self.events.push_back(ServerEvent::Call {
                    id,
                    action,
                    deadline,
                });
            }
            Request::Subscribe {
                subscription,
                credit,
                deadline,
            } => {
                if self.profile == Profile::Base {
                    return Err(DWCPError::Unsupported(
                        "streams: the base profile has none".into(),
                    ));
                }
                if self.live.streams >= self.config.max_streams {
                    return Err(DWCPError::ResourceLimit(format!(
                        "max_streams: {} streams are open on this connection",
                        self.live.streams
                    )));
                }
                let console = matches!(subscription, Subscription::Console { .. });
                let stream = Entry::Stream(Stream {
                    opened: false,
                    cancelled: false,
                    starved: false,
                    credit,
                    typing: console.then(Typing::default),
                });
                self.live.insert(Id::clone(&id), stream);
                self.events.push_back(ServerEvent::Subscribe {
                    id,
                    subscription,
                    deadline,
                });
            }
            Request::Peer => {
                self.live.insert(id, Entry::Peer);
                self.phase = Phase::Peer;
                self.events.push_back(ServerEvent::Peer {
                    frame: frame.to_frame(),
                });
            }
            Request::Auth(_) => {
                return Err(DWCPError::Protocol(
                    "AUTH in a frame of another type".into(),
                ));
            }
        }
        Ok(())
    }

    /// Answers a request that is not served.
    fn refuse_request(&mut self, head: Head<'_>, payload: &[u8], error: &DWCPError) {
        match self.profile {
            Profile::Extended => {
                let payload = encode_error(error, head.id);
                self.answer_small(FrameType::Error, head.timestamp, head.id, &payload);
            }
            Profile::Base => {
                let payload = encode_base_refusal(error, head.frame_type, payload);
                self.answer_small(FrameType::Vm, head.timestamp, head.id, &payload);
            }
        }
    }

    fn cancel(&mut self, id: &str) {
        let cancelled = match self.live.get_mut(id) {
            Some(Entry::Call(call)) => &mut call.cancelled,
            Some(Entry::Stream(stream)) => {
                stream.credit = 0;
                &mut stream.cancelled
            }
            // The answer may have crossed it.
            Some(Entry::Peer) | None => return,
        };
        if !std::mem::replace(cancelled, true) {
            self.events.push_back(ServerEvent::Cancel { id: id.into() });
        }
    }

    fn credited(&mut self, id: &str, payload: &[u8]) {
        let items = match decode_credit(payload) {
            Ok((items, 0)) => items,
            Ok(_) => {
                let what = "the peer granted bytes, which a node does not send";
                return self.violation(None, DWCPError::Protocol(what.into()));
            }
            Err(error) => return self.violation(None, error),
        };
        let stream = match self.live.get_mut(id) {
            Some(Entry::Stream(stream)) => stream,
            Some(_) => {
                let what = format!("the peer granted items to {id:?}, which is no stream");
                return self.violation(None, DWCPError::Protocol(what));
            }
            // Its end may have crossed it.
            None => return,
        };
        if stream.cancelled || items == 0 {
            return;
        }
        let had_none = stream.credit == 0;
        stream.credit = stream.credit.saturating_add(items);
        if had_none && stream.opened && !stream.starved {
            self.events.push_back(ServerEvent::Credit { id: id.into() });
        }
    }

    fn data(&mut self, id: &str, payload: &[u8]) {
        let stream = match self.live.get_mut(id) {
            Some(Entry::Stream(stream)) => stream,
            Some(_) => {
                let what = format!("the peer sent data to {id:?}, which is no stream");
                return self.violation(None, DWCPError::Protocol(what));
            }
            // The stream's end may have crossed it.
            None => return,
        };
        let allowed = stream
            .typing
            .as_mut()
            .is_some_and(|typing| typing.receive(payload.len()));
        if !allowed {
            let what = format!("the peer sent more data to {id:?} than it was granted");
            return self.violation(None, DWCPError::Protocol(what));
        }
        if !stream.cancelled && !payload.is_empty() {
            self.events.push_back(ServerEvent::Data {
                id: id.into(),
                bytes: Bytes::copy_from_slice(payload),
            });
        }
    }
}

/// Whether clients of the base profile parse an answer of this kind, so that an error must be no JSON.
const fn is_parsed(reply: Reply) -> bool {
    match reply {
        Reply::VM
        | Reply::VMs
        | Reply::Metrics
        | Reply::Migration
        | Reply::Snapshot
        | Reply::Snapshots => true,
        // The rest is empty, or not of that profile.
        _ => false,
    }
}
