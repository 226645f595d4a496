//! Who may do what on a node: API keys and their roles.
//!
//! A key is kept as its SHA-256: keys have far more entropy than passwords, so that nothing slower is
//! needed. A key that is presented is compared with all, in a time that says nothing of any.

#![forbid(unsafe_code)]

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use sha2::{Digest, Sha256};
use subtle::{ConditionallySelectable, ConstantTimeEq};

use super::Shared;
use crate::action::Role;
use crate::error::{DWCPError, Result};
use crate::model::validate;

/// Shortest key in bytes: 16 random bytes in base64 are longer.
const KEY_MIN: usize = 8;
/// Longest key in bytes.
const KEY_MAX: usize = 512;
/// Most keys: each is compared at every login.
const KEYS_MAX: usize = 4096;

/// What is kept of a key.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Key {
    /// By which people know it.
    pub(crate) name: String,
    pub(crate) role: Role,
    /// SHA-256 of the key.
    pub(crate) hash: [u8; 32],
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key")
            .field("name", &self.name)
            .field("role", &self.role)
            .finish_non_exhaustive()
    }
}

impl Key {
    /// # Errors
    ///
    /// `invalid_config` for a name that is none, or a key that is too short or too long.
    pub(crate) fn new(name: &str, key: &str, role: Role) -> Result<Key> {
        validate::name("key name", name)?;
        if !(KEY_MIN..=KEY_MAX).contains(&key.len()) {
            return Err(DWCPError::Config(format!(
                "api_key: must have {KEY_MIN} to {KEY_MAX} bytes, not {}",
                key.len()
            )));
        }
        Ok(Key {
            name: name.to_owned(),
            role,
            hash: hash(key),
        })
    }
}

fn hash(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Principal {
    /// The key's name; `anonymous` where none is needed.
    pub(super) name: String,
    pub(super) role: Role,
    /// No key is needed here: a peer needs none either.
    pub(super) open: bool,
}

impl Principal {
    /// Who asks a node that has no keys.
    pub(super) fn anonymous() -> Principal {
        Principal {
            name: "anonymous".into(),
            role: Role::Admin,
            open: true,
        }
    }

    /// The same, where a node asks for somebody else, whose role it has checked: up to operator.
    pub(super) fn on_behalf(self, role: Option<Role>) -> Principal {
        match role {
            Some(role) if (self.role == Role::Node || self.open) && Role::Operator.allows(role) => {
                Principal { role, ..self }
            }
            _ => self,
        }
    }

    /// # Errors
    ///
    /// `permission_denied` naming what was asked, the role it needs, and the one there is.
    pub(super) fn check(&self, what: &str, needed: Role) -> Result<()> {
        if self.role.allows(needed) || (self.open && needed == Role::Node) {
            return Ok(());
        }
        Err(DWCPError::PermissionDenied(format!(
            "{what} needs the role {needed}; the key {:?} has {}",
            self.name, self.role
        )))
    }
}

/// The keys of a node.
#[derive(Debug, Default)]
pub(super) struct Keys(RwLock<Vec<Key>>);

impl Keys {
    pub(super) fn new(keys: Vec<Key>) -> Keys {
        Keys(RwLock::new(keys))
    }

    /// Whether nobody needs one.
    pub(super) fn is_empty(&self) -> bool {
        self.read(Vec::is_empty)
    }

    /// Whose key this is.
    ///
    /// # Errors
    ///
    /// `auth`, the same for every key that is not known.
    pub(super) fn principal(&self, key: &str) -> Result<Principal> {
        let presented = hash(key);
        self.read(|keys| {
            let mut found = u32::MAX;
            for (index, own) in keys.iter().enumerate() {
                let index = u32::try_from(index).unwrap_or(u32::MAX);
                let same = own.hash.ct_eq(&presented);
                found.conditional_assign(&index, same);
            }
            keys.get(found as usize).map(principal)
        })
        .ok_or_else(|| DWCPError::Authentication("the API key is not known here".into()))
    }

    /// Whose name a client's certificate carries, which this node's authority has vouched for.
    pub(super) fn of_certificate(&self, name: &str) -> Option<Principal> {
        self.read(|keys| keys.iter().find(|key| key.name == name).map(principal))
    }

    /// All keys, without what they are.
    pub(super) fn list(&self) -> Vec<(String, Role)> {
        self.read(|keys| {
            keys.iter()
                .map(|key| (key.name.clone(), key.role))
                .collect()
        })
    }

    pub(super) fn add(&self, key: Key) -> Result<()> {
        let mut keys = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if keys.iter().any(|own| own.name == key.name) {
            return Err(DWCPError::AlreadyExists(format!("key {:?}", key.name)));
        }
        if keys.len() >= KEYS_MAX {
            return Err(DWCPError::ResourceLimit(format!(
                "keys: this node has {KEYS_MAX}, which is its limit"
            )));
        }
        keys.push(key);
        Ok(())
    }

    pub(super) fn remove(&self, name: &str) -> Result<()> {
        let mut keys = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let at = keys.iter().position(|key| key.name == name);
        let at = at.ok_or_else(|| DWCPError::NotFound(format!("key {name:?}")))?;
        keys.remove(at);
        Ok(())
    }

    fn read<T>(&self, look: impl FnOnce(&Vec<Key>) -> T) -> T {
        look(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

fn principal(key: &Key) -> Principal {
    Principal {
        name: key.name.clone(),
        role: key.role,
        open: false,
    }
}

/// The API keys of a node. Made by [`Node::keys`](crate::Node::keys).
///
/// Connections that are open keep the role that they were let in with.
#[derive(Debug, Clone)]
pub struct NodeKeys(pub(super) Arc<Shared>);

impl NodeKeys {
    /// Names and roles of all keys. What they are is not kept.
    #[must_use]
    pub fn list(&self) -> Vec<(String, Role)> {
        self.0.keys.list()
    }

    /// Adds a key of 8 to 512 bytes.
    ///
    /// # Errors
    ///
    /// [`DWCPError::AlreadyExists`] for a name that is taken, [`DWCPError::Config`] for a name or key
    /// that is not allowed, [`DWCPError::InvalidOperation`] on a node that was started without keys:
    /// whoever used it so far would be locked out.
    pub fn add(&self, name: &str, key: &str, role: Role) -> Result<()> {
        let key = Key::new(name, key, role)?;
        if self.0.keys.is_empty() {
            return Err(DWCPError::InvalidOperation(
                "keys: this node was started without any, and serves everybody on this host; start \
                 it with one"
                    .into(),
            ));
        }
        self.0.keys.add(key)
    }

    /// Removes a key.
    ///
    /// # Errors
    ///
    /// [`DWCPError::NotFound`] for a name that no key has; [`DWCPError::InvalidOperation`] for the last
    /// one, without which everybody would be let in.
    pub fn remove(&self, name: &str) -> Result<()> {
        let keys = self.0.keys.list();
        if keys.len() == 1 && keys.iter().any(|(own, _)| own == name) {
            return Err(DWCPError::InvalidOperation(
                "keys: the last one cannot be removed: everybody would be let in".into(),
            ));
        }
        self.0.keys.remove(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Keys {
        let keys = [
            ("eye", "viewer-key", Role::Viewer),
            ("hand", "operator-key", Role::Operator),
            ("peer", "node-key-1", Role::Node),
        ];
        let keys = keys.map(|(name, key, role)| Key::new(name, key, role).unwrap());
        Keys::new(keys.to_vec())
    }

    #[test]
    fn a_key_is_found_by_what_it_is_and_gives_its_role() {
        let keys = keys();
        for (key, name, role) in [
            ("viewer-key", "eye", Role::Viewer),
            ("operator-key", "hand", Role::Operator),
            ("node-key-1", "peer", Role::Node),
        ] {
            let principal = keys.principal(key).unwrap();
            assert_eq!((principal.name.as_str(), principal.role), (name, role));
        }
        for wrong in ["", "viewer-ke", "viewer-key ", "eye"] {
            let error = keys.principal(wrong).unwrap_err();
            assert!(matches!(error, DWCPError::Authentication(_)), "{error}");
        }
        assert_eq!(keys.of_certificate("eye").unwrap().role, Role::Viewer);
        assert_eq!(keys.of_certificate("nobody"), None);
    }

    #[test]
    fn nothing_shows_a_key() {
        let keys = keys();
        let text = format!("{keys:?}");
        assert!(
            !text.contains("viewer-key") && text.contains("eye"),
            "{text}"
        );
    }

    #[test]
    fn names_are_unique_and_keys_have_a_length() {
        let keys = keys();
        let again = Key::new("eye", "another-key", Role::Admin).unwrap();
        assert!(matches!(keys.add(again), Err(DWCPError::AlreadyExists(_))));
        for (name, key) in [("", "long-enough"), ("n", "short"), ("n", &"x".repeat(513))] {
            assert!(Key::new(name, key, Role::Admin).is_err(), "{name} {key}");
        }
        keys.remove("eye").unwrap();
        assert!(keys.principal("viewer-key").is_err());
        assert!(matches!(keys.remove("eye"), Err(DWCPError::NotFound(_))));
    }

    #[test]
    fn a_role_may_what_it_may() {
        let denied = |role, needed| {
            let who = Principal {
                name: "k".into(),
                role,
                open: false,
            };
            who.check("this", needed).is_err()
        };
        assert!(denied(Role::Viewer, Role::Operator) && denied(Role::Operator, Role::Admin));
        assert!(denied(Role::Admin, Role::Node) && denied(Role::Node, Role::Viewer));
        assert!(!denied(Role::Node, Role::Node) && !denied(Role::Admin, Role::Viewer));
        let peer = Principal {
            name: "p".into(),
            role: Role::Node,
            open: false,
        };
        for (asked, granted) in [
            (None, Role::Node),
            (Some(Role::Viewer), Role::Viewer),
            (Some(Role::Operator), Role::Operator),
            (Some(Role::Admin), Role::Node),
        ] {
            assert_eq!(peer.clone().on_behalf(asked).role, granted, "{asked:?}");
        }
        let viewer = keys().principal("viewer-key").unwrap();
        assert_eq!(viewer.on_behalf(Some(Role::Operator)).role, Role::Viewer);
        let anyone = Principal::anonymous();
        assert!(anyone.check("prepare", Role::Node).is_ok());
    }
}
