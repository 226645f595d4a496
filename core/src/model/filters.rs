//! Which VMs a list or a watch is about.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use super::vm::VM;

/// Which VMs a list or a watch is about.
///
/// The keys `name`, `state`, `node` and `image` compare with the VM's own, every other key is a
/// label. A VM has to match all of them, exactly. Made from `()`, a map, or pairs; of two pairs
/// with the same key the last counts.
///
/// # Examples
///
/// ```
/// use dwcp::{DWCPError, Filters, VM, VMConfig};
///
/// let config = VMConfig::builder().name("web").label("env", "production").build()?;
/// let vm = VM::new("id", "node-01", config);
/// assert!(Filters::from(()).matches(&vm));
/// assert!(Filters::from([("name", "web"), ("env", "production")]).matches(&vm));
/// assert!(!Filters::from(vec![("state", "running")]).matches(&vm));
/// # Ok::<(), DWCPError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Filters {
    pairs: BTreeMap<String, String>,
}

impl Filters {
    /// Filters that every VM matches.
    #[must_use]
    pub fn new() -> Filters {
        Filters::default()
    }

    /// Adds a filter; one with the same key is replaced.
    #[must_use]
    pub fn with(mut self, key: impl Into<String>, value: impl Into<String>) -> Filters {
        self.pairs.insert(key.into(), value.into());
        self
    }

    /// Whether every VM matches.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// The filters, in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Whether the VM matches all filters.
    #[must_use]
    pub fn matches(&self, vm: &VM) -> bool {
        self.iter().all(|(key, value)| match key {
            "name" => vm.name == value,
            "state" => vm.state.as_str() == value,
            "node" => vm.node == value,
            "image" => vm.config.image == value,
            label => vm.labels.get(label).is_some_and(|has| has == value),
        })
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Filters {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        let pairs = pairs
            .into_iter()
            .map(|(key, value)| (key.into(), value.into()))
            .collect();
        Filters { pairs }
    }
}

impl From<()> for Filters {
    fn from((): ()) -> Self {
        Filters::default()
    }
}

impl From<&Filters> for Filters {
    fn from(filters: &Filters) -> Self {
        filters.clone()
    }
}

impl<T: Into<Filters>> From<Option<T>> for Filters {
    fn from(filters: Option<T>) -> Self {
        filters.map(Into::into).unwrap_or_default()
    }
}

impl<K: Into<String>, V: Into<String>, S> From<HashMap<K, V, S>> for Filters {
    fn from(pairs: HashMap<K, V, S>) -> Self {
        pairs.into_iter().collect()
    }
}

impl<K: Into<String>, V: Into<String>, const N: usize> From<[(K, V); N]> for Filters {
    fn from(pairs: [(K, V); N]) -> Self {
        pairs.into_iter().collect()
    }
}

impl<K: Into<String>, V: Into<String>> From<BTreeMap<K, V>> for Filters {
    fn from(pairs: BTreeMap<K, V>) -> Self {
        pairs.into_iter().collect()
    }
}

impl<K, V> From<&HashMap<K, V>> for Filters
where
    K: Clone + Into<String>,
    V: Clone + Into<String>,
{
    fn from(pairs: &HashMap<K, V>) -> Self {
        pairs
            .iter()
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }
}

impl<K, V> From<&[(K, V)]> for Filters
where
    K: Clone + Into<String>,
    V: Clone + Into<String>,
{
    fn from(pairs: &[(K, V)]) -> Self {
        pairs.iter().cloned().collect()
    }
}

impl<K: Into<String>, V: Into<String>> From<Vec<(K, V)>> for Filters {
    fn from(pairs: Vec<(K, V)>) -> Self {
        pairs.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{VMConfig, VMState};

    fn vm() -> VM {
        let config = VMConfig::builder()
            .name("web")
            .label("env", "prod")
            .label("tier", "1")
            .build()
            .unwrap();
        VM {
            state: VMState::Running,
            ..VM::new("id", "node-01", config)
        }
    }

    #[test]
    fn all_have_to_match() {
        let cases: &[(&[(&str, &str)], bool)] = &[
            (&[], true),
            (&[("name", "web")], true),
            (&[("name", "we")], false),
            (&[("state", "running")], true),
            (&[("state", "paused")], false),
            (&[("node", "node-01")], true),
            (&[("node", "node-02")], false),
            (&[("image", "dwcp/pulse")], true),
            (&[("image", "other")], false),
            (&[("env", "prod")], true),
            (&[("env", "prod"), ("tier", "1")], true),
            (&[("env", "prod"), ("tier", "2")], false),
            (&[("env", "prod"), ("name", "db")], false),
            (&[("owner", "")], false),
            (&[("id", "id")], false),
        ];
        for (pairs, matches) in cases {
            assert_eq!(Filters::from(*pairs).matches(&vm()), *matches, "{pairs:?}");
        }
    }

    #[test]
    fn the_updated_labels_count() {
        let mut vm = vm();
        vm.labels.insert("env".into(), "test".into());
        assert!(Filters::from([("env", "test")]).matches(&vm));
        assert!(!Filters::from([("env", "prod")]).matches(&vm));
    }

    #[test]
    fn made_from_whatever_callers_have() {
        let want = Filters::new().with("env", "prod");
        assert_eq!(Filters::from(()), Filters::new());
        assert_eq!(Filters::from([("env", "prod")]), want);
        assert_eq!(
            Filters::from(vec![("env".to_owned(), "prod".to_owned())]),
            want
        );
        assert_eq!(Filters::from(&[("env", "prod")][..]), want);
        assert_eq!(Filters::from(BTreeMap::from([("env", "prod")])), want);
        let map = HashMap::from([("env".to_owned(), "prod".to_owned())]);
        assert_eq!(Filters::from(&map), want);
        assert_eq!(Filters::from(Some(map.clone())), want);
        assert_eq!(Filters::from(map), want);
        assert_eq!(
            Filters::from(None::<HashMap<String, String>>),
            Filters::new()
        );
        assert_eq!(Filters::from(&want), want);
    }

    #[test]
    fn json_is_a_plain_map() {
        let filters = Filters::new().with("env", "prod");
        let json = serde_json::to_string(&filters).unwrap();
        assert_eq!(json, r#"{"env":"prod"}"#);
        assert_eq!(serde_json::from_str::<Filters>(&json).unwrap(), filters);
        // `null` is read as an option.
        let none = serde_json::from_str::<Option<Filters>>("null").unwrap();
        assert_eq!(Filters::from(none), Filters::new());
    }
}
