//! AUTH: who a peer is, what it can, and what it is granted.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::VERSION;
use super::fields::wrong;
use crate::action::Role;
use crate::error::{DWCPError, Result};
use crate::model::limits::{NAME_LEN_MAX, TEXT_LEN_MAX};
use crate::model::validate;

/// Most features that a peer offers. There is one so far.
const FEATURES_MAX: usize = 64;

/// What a peer says of itself. Fields that are not known are ignored, for by them newer peers offer
/// what older ones cannot.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct AuthRequest {
    /// Its credential. Empty text is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) api_key: Option<String>,
    /// Version of the protocol.
    #[serde(deserialize_with = "version")]
    pub(crate) version: u32,
    /// What it wants to use.
    #[serde(
        deserialize_with = "null_is_none",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub(crate) features: Vec<String>,
    /// What it is, for logs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) client: Option<ClientName>,
    /// A node only: the role of whom it asks for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) on_behalf: Option<Role>,
    /// How its payloads are written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) encoding: Option<String>,
}

/// What a client calls itself.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ClientName {
    pub(crate) name: String,
    pub(crate) version: String,
}

impl Default for AuthRequest {
    fn default() -> Self {
        AuthRequest {
            api_key: None,
            version: VERSION,
            features: Vec::new(),
            client: None,
            on_behalf: None,
            encoding: None,
        }
    }
}

/// Nobody's key gets into a log.
impl fmt::Debug for AuthRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthRequest")
            .field("api_key", &self.api_key.as_ref().map(|_| "…"))
            .field("version", &self.version)
            .field("features", &self.features)
            .field("client", &self.client)
            .field("encoding", &self.encoding)
            .finish()
    }
}

impl AuthRequest {
    /// Whether it asks for the extended profile.
    pub(crate) fn wants_extended(&self) -> bool {
        self.features.iter().any(|name| name == super::EXTENDED)
    }

    pub(super) fn decode(payload: &[u8]) -> Result<AuthRequest> {
        // Where a key is required nothing longer comes this far; elsewhere this is the limit.
        if payload.len() > super::REQUEST_MAX {
            return Err(DWCPError::ResourceLimit(format!(
                "an AUTH of {} bytes, where {} are the limit",
                payload.len(),
                super::REQUEST_MAX
            )));
        }
        let mut auth: AuthRequest =
            serde_json::from_slice(payload).map_err(|error| wrong("payload", error))?;
        auth.api_key = auth.api_key.filter(|key| !key.is_empty());
        auth.check()
            .map_err(|error| DWCPError::Protocol(error.message().to_owned()))?;
        Ok(auth)
    }

    /// What a peer says before anybody knows it is kept as long as its connection.
    fn check(&self) -> Result<()> {
        if self.version != VERSION {
            let why = format_args!("must be {VERSION}, not {}", self.version);
            return validate::wrong("version", why);
        }
        if let Some(key) = &self.api_key {
            validate::text("api_key", key, TEXT_LEN_MAX)
                // The text of the error would have the key in it.
                .or_else(|_| {
                    validate::wrong("api_key", "is too long, or has control characters")
                })?;
        }
        if self.features.len() > FEATURES_MAX {
            return validate::wrong("features", format_args!("more than {FEATURES_MAX}"));
        }
        for feature in &self.features {
            validate::text("features", feature, NAME_LEN_MAX)?;
        }
        if let Some(client) = &self.client {
            validate::text("client.name", &client.name, NAME_LEN_MAX)?;
            validate::text("client.version", &client.version, NAME_LEN_MAX)?;
        }
        match self.encoding.as_deref() {
            None | Some("" | "json") => Ok(()),
            Some(other) => {
                validate::text("encoding", other, NAME_LEN_MAX)?;
                validate::wrong("encoding", format_args!("must be json, not {other}"))
            }
        }
    }

    pub(super) fn encode(&self) -> Result<Vec<u8>> {
        Ok(serde_json::to_vec(self)?)
    }
}

/// Reads a list; `null` is an empty one.
fn null_is_none<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

/// Reads the version; whoever speaks in these frames and says nothing means this one.
fn version<'de, D: serde::Deserializer<'de>>(d: D) -> Result<u32, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or(VERSION))
}

/// The answer to AUTH. To a peer of the base profile the session gives the first three fields only.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct AuthReply {
    pub(crate) success: bool,
    /// For people: why, where it is refused.
    pub(crate) message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token: Option<String>,
    /// What the peer may use of what it wanted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) features: Vec<String>,
    /// Name of the session, for logs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) session: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<NodeName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) limits: Option<SessionLimits>,
    /// What the credential allows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) role: Option<Role>,
}

/// Which node it is.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct NodeName {
    pub(crate) name: String,
    /// UUID of its store.
    pub(crate) uuid: String,
    pub(crate) version: String,
}

/// What the node allows on the connection; 0 where it does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct SessionLimits {
    /// Largest `length` of a frame.
    pub(crate) max_frame: u64,
    /// Most streams open at once.
    pub(crate) max_streams: u32,
    /// Most requests in flight at once.
    pub(crate) max_inflight: u32,
}

impl AuthReply {
    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        Ok(serde_json::to_vec(self)?)
    }

    /// # Errors
    ///
    /// `invalid_message` for what is no such reply.
    pub(crate) fn decode(payload: &[u8]) -> Result<AuthReply> {
        serde_json::from_slice(payload)
            .map_err(|error| DWCPError::Protocol(format!("the node's answer to AUTH: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: &serde_json::Value) -> Result<AuthRequest> {
        AuthRequest::decode(value.to_string().as_bytes())
    }

    #[test]
    fn what_deployed_clients_send_is_read() {
        let auth = read(&json!({"api_key": "k", "version": 3})).unwrap();
        assert_eq!((auth.api_key.as_deref(), auth.version), (Some("k"), 3));
        assert!(!auth.wants_extended());
        for nothing in [
            json!({}),
            json!({"api_key": "", "version": null, "features": null, "client": null}),
            json!({"colour": "red", "encoding": "json"}),
        ] {
            let auth = read(&nothing).unwrap();
            assert_eq!((auth.api_key, auth.version), (None, 3), "{nothing}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (value, field) in [
            (json!({"version": 2}), "version: "),
            (json!({"api_key": "x".repeat(1025)}), "api_key: "),
            (json!({"api_key": "secret\n"}), "api_key: "),
            (json!({"features": vec!["x"; 65]}), "features: "),
            (json!({"features": ["x".repeat(129)]}), "features: "),
            (json!({"client": {"name": "a\u{7}"}}), "client.name: "),
            (
                json!({"client": {"version": "x".repeat(129)}}),
                "client.version: ",
            ),
            (json!({"encoding": "xml"}), "encoding: "),
            (json!({"version": "three"}), "payload: "),
            (json!({"api_key": 5}), "payload: "),
            (json!(5), "payload: "),
        ] {
            let error = read(&value).unwrap_err();
            assert!(matches!(error, DWCPError::Protocol(_)), "{error:?}");
            assert!(error.message().starts_with(field), "{error}");
            assert!(!error.message().contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_key_is_not_printed() {
        let auth = read(&json!({"api_key": "secret"})).unwrap();
        assert!(!format!("{auth:?}").contains("secret"), "{auth:?}");
    }

    #[test]
    fn what_our_client_says_survives() {
        let auth = AuthRequest {
            features: vec![super::super::EXTENDED.into()],
            client: Some(crate::wire::message::ClientName {
                name: "dwcp".into(),
                version: "3.0.0".into(),
            }),
            ..AuthRequest::default()
        };
        assert!(auth.wants_extended());
        assert_eq!(AuthRequest::decode(&auth.encode().unwrap()), Ok(auth));
    }

    #[test]
    fn a_base_reply_says_nothing_else() {
        let reply = AuthReply {
            success: true,
            message: "welcome".into(),
            ..AuthReply::default()
        };
        let text = String::from_utf8(reply.encode().unwrap()).unwrap();
        assert_eq!(text, r#"{"success":true,"message":"welcome"}"#);
        assert_eq!(AuthReply::decode(text.as_bytes()).unwrap(), reply);
        let newer = br#"{"success":true,"mood":"good","limits":{"max_fun":1}}"#;
        let reply = AuthReply::decode(newer).unwrap();
        assert_eq!(reply.limits, Some(SessionLimits::default()));
        assert!(AuthReply::decode(b"hello").is_err());
    }
}
