//! API keys: few, so they are kept in memory too, in either kind of store.

use super::write::Write;
use super::{Flush, Store, lock};
use crate::action::Role;
use crate::error::{DWCPError, Result};
use crate::model::Timestamp;

/// Most API keys of a node: far more than people who manage them by hand can oversee.
const API_KEYS_MAX: usize = 10_000;

/// An API key, without the secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ApiKey {
    /// What it is called where keys are managed.
    pub(crate) name: String,
    pub(crate) role: Role,
    /// SHA-256 of the secret.
    pub(crate) hash: [u8; 32],
    pub(crate) created: Timestamp,
}

impl Store {
    /// The API keys, oldest first.
    pub(crate) fn keys(&self) -> Vec<ApiKey> {
        lock(&self.keys).clone()
    }

    /// Adds an API key. Durable when the [`Flush`] says so.
    ///
    /// # Errors
    ///
    /// `already_exists` for a name or a secret that is there, `resource_limit` beyond 10,000 keys.
    pub(crate) fn add_key(&self, key: ApiKey) -> Result<Flush> {
        let mut keys = lock(&self.keys);
        if keys.iter().any(|known| known.name == key.name) {
            return Err(DWCPError::AlreadyExists(format!("API key {}", key.name)));
        }
        if let Some(known) = keys.iter().find(|known| known.hash == key.hash) {
            return Err(DWCPError::AlreadyExists(format!(
                "API key {}: {} has the same secret",
                key.name, known.name
            )));
        }
        if keys.len() >= API_KEYS_MAX {
            return Err(DWCPError::ResourceLimit(format!(
                "API keys: this node has {API_KEYS_MAX}, which is the limit"
            )));
        }
        keys.push(key.clone());
        self.write([Write::Key(key)]);
        Ok(self.flush())
    }

    /// Removes the API key of that name. Durable when the [`Flush`] says so.
    ///
    /// # Errors
    ///
    /// `not_found`.
    pub(crate) fn remove_key(&self, name: &str) -> Result<Flush> {
        let mut keys = lock(&self.keys);
        let Some(at) = keys.iter().position(|known| known.name == name) else {
            return Err(DWCPError::NotFound(format!("API key {name}")));
        };
        keys.remove(at);
        self.write([Write::ForgetKey(name.to_owned())]);
        Ok(self.flush())
    }
}
