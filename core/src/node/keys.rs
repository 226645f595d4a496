//! Who may do what on a node: API keys and their roles.
//!
//! A key is kept as its SHA-256: keys have far more entropy than passwords, so that nothing slower is
//! needed. A key that is presented is compared with all, in a time that says nothing of any.

#![forbid(unsafe_code)]

use std::fmt;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use subtle::{ConditionallySelectable, ConstantTimeEq};

use super::Shared;
use super::keyboard;
use super::store::{ApiKey, Flush, Store};
use crate::action::Role;
use crate::error::{DWCPError, Result};
use crate::model::{Timestamp, validate};

/// Shortest key in bytes: 16 random bytes in base64 are longer.
const KEY_MIN: usize = 8;
/// Longest key in bytes.
const KEY_MAX: usize = 512;

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
    /// A node that asks for others, whom it has let in itself.
    pub(super) forwards: bool,
}

impl Principal {
    /// Who asks a node that has no keys.
    pub(super) fn anonymous() -> Principal {
        Principal {
            name: "anonymous".into(),
            role: Role::Admin,
            open: true,
            forwards: false,
        }
    }

    /// The same, where a node asks for somebody else, whose role it has checked: up to operator.
    pub(super) fn on_behalf(self, role: Option<Role>) -> Principal {
        match role {
            Some(role) if (self.role == Role::Node || self.open) && Role::Operator.allows(role) => {
                Principal {
                    role,
                    forwards: true,
                    ..self
                }
            }
            _ => self,
        }
    }

    /// An idempotency key as this node knows it: of two who use the same, each has its own.
    pub(super) fn scoped(&self, key: &str) -> String {
        if self.open {
            return key.to_owned();
        }
        let mut digest = Sha256::new();
        digest.update(self.name.as_bytes());
        digest.update([0]);
        digest.update(key.as_bytes());
        digest
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    /// Says in `writer` that it is who types; `connection` is the one it came by.
    pub(super) fn sign(&self, writer: &mut Option<String>, connection: &str) {
        if !(self.forwards && writer.is_some()) {
            keyboard::let_in(writer, &self.name, connection);
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

/// The keys of a node: those that it was started with, and those that its store has.
#[derive(Debug)]
pub(super) struct Keys {
    given: Vec<Key>,
    store: Arc<Store>,
}

impl Keys {
    /// # Errors
    ///
    /// `already_exists` for two keys of one name.
    pub(super) fn new(given: Vec<Key>, store: Arc<Store>) -> Result<Keys> {
        let keys = Keys { given, store };
        let all = keys.all();
        for (index, key) in all.iter().enumerate() {
            if all[..index].iter().any(|other| other.name == key.name) {
                return Err(taken(&key.name));
            }
        }
        Ok(keys)
    }

    fn all(&self) -> Vec<Key> {
        let stored = self.store.keys().into_iter().map(|key| Key {
            name: key.name,
            role: key.role,
            hash: key.hash,
        });
        self.given.iter().cloned().chain(stored).collect()
    }

    /// Whether nobody needs one.
    pub(super) fn is_empty(&self) -> bool {
        self.all().is_empty()
    }

    /// Whose key this is.
    ///
    /// # Errors
    ///
    /// `auth`, the same for every key that is not known.
    pub(super) fn principal(&self, key: &str) -> Result<Principal> {
        let presented = hash(key);
        let keys = self.all();
        let mut found = u32::MAX;
        for (index, own) in (0..u32::MAX).zip(&keys) {
            let same = own.hash.ct_eq(&presented);
            found.conditional_assign(&index, same);
        }
        let found = keys.get(found as usize).map(principal);
        found.ok_or_else(|| DWCPError::Authentication("the API key is not known here".into()))
    }

    /// Whose name a client's certificate carries, which this node's authority has vouched for.
    pub(super) fn of_certificate(&self, name: &str) -> Option<Principal> {
        let keys = self.all();
        keys.iter().find(|key| key.name == name).map(principal)
    }

    /// All keys, without what they are.
    pub(super) fn list(&self) -> Vec<(String, Role)> {
        let keys = self.all().into_iter();
        keys.map(|key| (key.name, key.role)).collect()
    }

    /// Adds a key. Durable when the [`Flush`] says so.
    fn add(&self, key: Key) -> Result<Flush> {
        if self.given.iter().any(|own| own.name == key.name) {
            return Err(taken(&key.name));
        }
        self.store.add_key(ApiKey {
            name: key.name,
            role: key.role,
            hash: key.hash,
            created: Timestamp::now(),
        })
    }

    /// Removes a key. Durable when the [`Flush`] says so.
    fn remove(&self, name: &str) -> Result<Flush> {
        if self.given.iter().any(|own| own.name == name) {
            return Err(DWCPError::InvalidOperation(format!(
                "key {name:?} is one that this node was started with"
            )));
        }
        if self.given.is_empty() && self.store.keys().len() == 1 {
            return Err(DWCPError::InvalidOperation(
                "keys: the last one cannot be removed: everybody would be let in".into(),
            ));
        }
        self.store.remove_key(name)
    }
}

fn taken(name: &str) -> DWCPError {
    DWCPError::AlreadyExists(format!("key {name:?}"))
}

fn principal(key: &Key) -> Principal {
    Principal {
        name: key.name.clone(),
        role: key.role,
        open: false,
        forwards: false,
    }
}

/// The API keys of a node. Made by [`Node::keys`](crate::Node::keys).
///
/// With a data directory those that are added here outlive the node. Connections that are open keep the
/// role that they were let in with.
#[derive(Debug, Clone)]
pub struct NodeKeys(pub(super) Arc<Shared>);

impl NodeKeys {
    /// Names and roles of all keys. What they are is not kept.
    #[must_use]
    pub fn list(&self) -> Vec<(String, Role)> {
        self.0.keys.list()
    }

    /// Adds a key of 8 to 512 bytes. With the first one, nobody is let in without any more.
    ///
    /// # Errors
    ///
    /// [`DWCPError::AlreadyExists`] for a name or a key that is taken, [`DWCPError::Config`] for one
    /// that is not allowed, [`DWCPError::ResourceLimit`] for too many.
    pub async fn add(&self, name: &str, key: &str, role: Role) -> Result<()> {
        let key = Key::new(name, key, role)?;
        self.0.keys.add(key)?.done().await
    }

    /// Removes a key that was added.
    ///
    /// # Errors
    ///
    /// [`DWCPError::NotFound`] for a name that no key has; [`DWCPError::InvalidOperation`] for one that
    /// the node was started with, and for the last one, without which everybody would be let in.
    pub async fn remove(&self, name: &str) -> Result<()> {
        self.0.keys.remove(name)?.done().await
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
        let (store, _) = Store::open(None).unwrap();
        Keys::new(keys.to_vec(), Arc::new(store)).unwrap()
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
        let key = |name, key| Key::new(name, key, Role::Viewer).unwrap();
        let again = keys.add(key("eye", "another-key"));
        assert!(matches!(again, Err(DWCPError::AlreadyExists(_))));
        for (name, key) in [("", "long-enough"), ("n", "short"), ("n", &"x".repeat(513))] {
            assert!(Key::new(name, key, Role::Admin).is_err(), "{name} {key}");
        }
        let _durable = keys.add(key("late", "a-late-key")).unwrap();
        assert_eq!(keys.principal("a-late-key").unwrap().name, "late");
        let _durable = keys.remove("late").unwrap();
        assert!(keys.principal("a-late-key").is_err());
        assert!(matches!(keys.remove("late"), Err(DWCPError::NotFound(_))));
        let given = keys.remove("eye");
        assert!(matches!(given, Err(DWCPError::InvalidOperation(_))));
        let twice = Keys::new(
            vec![key("a", "key-of-a-1"), key("a", "key-of-a-2")],
            keys.store,
        );
        assert!(matches!(twice, Err(DWCPError::AlreadyExists(_))));
    }

    #[tokio::test]
    async fn the_last_key_stays_and_keys_outlive_the_node() {
        let dir = tempfile::tempdir().unwrap();
        let start = || {
            let node = crate::node::Node::builder("node-01").backend(crate::node::Backend::Sim);
            node.data_dir(dir.path()).start()
        };
        let node = start().await.unwrap();
        node.keys()
            .add("one", "key-number-one", Role::Viewer)
            .await
            .unwrap();
        let last = node.keys().remove("one").await;
        assert!(matches!(last, Err(DWCPError::InvalidOperation(_))));
        node.shutdown(std::time::Duration::from_secs(1))
            .await
            .unwrap();
        drop(node);
        let again = start().await.unwrap();
        assert_eq!(again.keys().list(), [("one".to_owned(), Role::Viewer)]);
    }

    #[test]
    fn a_role_may_what_it_may() {
        let denied = |role, needed| {
            let who = Principal {
                name: "k".into(),
                role,
                open: false,
                forwards: false,
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
            forwards: false,
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
        let operator = keys().principal("operator-key").unwrap();
        assert_ne!(viewer.scoped("k"), operator.scoped("k"));
        assert_eq!(viewer.scoped("k"), viewer.scoped("k"));
        assert!(viewer.scoped(&"k".repeat(128)).len() <= 128);
        assert_eq!(viewer.on_behalf(Some(Role::Operator)).role, Role::Viewer);
        let anyone = Principal::anonymous();
        assert_eq!(anyone.scoped("k"), "k");
        assert!(anyone.check("prepare", Role::Node).is_ok());
    }
}
