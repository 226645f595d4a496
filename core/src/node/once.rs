//! Idempotency keys: a request that is repeated is done once, also across a restart of the node.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::store::{Answer, Digest, Write};
use crate::error::{DWCPError, Result};
use crate::model::Timestamp;

/// How long an answer is kept: far longer than any client tries again.
pub(super) const KEPT_FOR: Duration = Duration::from_secs(600);
/// Most keys kept at once, so that a caller who never uses one twice does not fill the memory.
pub(super) const KEYS_MAX: usize = 16_384;

/// A key, of whoever uses it: what others use is never met.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// Who asks; empty for programs in this process.
    pub(super) principal: String,
    pub(super) key: String,
}

/// A request that came with a key.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) key: Key,
    pub(super) digest: Digest,
}

impl Asked {
    /// What a program in this process asks for.
    ///
    /// # Errors
    ///
    /// Those of [`Digest::of`].
    pub(super) fn new(key: String, what: &impl serde::Serialize) -> Result<Asked> {
        Ok(Asked {
            key: Key {
                principal: String::new(),
                key,
            },
            digest: Digest::of(what)?,
        })
    }
}

/// Answers of one operation, by key.
#[derive(Debug)]
pub(super) struct Once<T> {
    /// As the action is named.
    operation: &'static str,
    keys: Mutex<Keys<T>>,
}

#[derive(Debug)]
struct Keys<T> {
    calls: HashMap<Key, Arc<Call<T>>>,
    /// In the order they came, which is that in which they go.
    order: VecDeque<(Instant, Key)>,
}

#[derive(Debug)]
struct Call<T> {
    asked: Digest,
    /// Held while the first call is under way; those that come meanwhile wait for it.
    answer: tokio::sync::Mutex<Option<T>>,
}

impl<T: Clone> Once<T> {
    /// Begins with the answers that were stored, the oldest first; `known` makes one of what was
    /// stored for it, and `None` where there is nothing to answer with any more.
    pub(super) fn new(
        operation: &'static str,
        stored: &[Answer],
        known: impl Fn(&str) -> Option<T>,
    ) -> Once<T> {
        let mut keys = Keys {
            calls: HashMap::new(),
            order: VecDeque::new(),
        };
        let (now, today) = (Instant::now(), Timestamp::now().as_unix_micros());
        for one in stored.iter().filter(|one| one.operation == operation) {
            let Some(answer) = known(&one.answer) else {
                continue;
            };
            // A clock that was set back does not make it younger than new.
            let age = today.saturating_sub(one.at.as_unix_micros()).max(0);
            let age = Duration::from_micros(age.unsigned_abs());
            if age >= KEPT_FOR {
                continue;
            }
            let key = Key {
                principal: one.principal.clone(),
                key: one.key.clone(),
            };
            let call = Call {
                asked: one.digest,
                answer: tokio::sync::Mutex::new(Some(answer)),
            };
            // A host that has been up for less keeps it a little longer.
            let at = now.checked_sub(age).unwrap_or(now);
            keys.order.push_back((at, key.clone()));
            keys.calls.insert(key, Arc::new(call));
        }
        Once {
            operation,
            keys: Mutex::new(keys),
        }
    }

    /// What makes an answer outlive the node: to be stored together with what was done.
    pub(super) fn stored(&self, asked: &Asked, answer: String) -> Write {
        let now = Timestamp::now();
        let kept_micros = i64::try_from(KEPT_FOR.as_micros()).unwrap_or(i64::MAX);
        let expired = now.as_unix_micros().saturating_sub(kept_micros);
        Write::Answer {
            answer: Answer {
                operation: self.operation.to_owned(),
                principal: asked.key.principal.clone(),
                key: asked.key.key.clone(),
                digest: asked.digest,
                answer,
                at: now,
            },
            expired: Timestamp::from_unix_micros(expired),
        }
    }

    /// The answer that this key got before, or that `work` gives. Calls with the same key wait for
    /// each other. An error is not kept: whoever comes next tries again.
    ///
    /// # Errors
    ///
    /// `invalid_operation` for a key that came with something else, `resource_limit` when there are
    /// too many keys, and those of `work`.
    pub(super) async fn once(
        &self,
        asked: &Asked,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let key = &asked.key;
        let call = {
            let mut keys = self.lock();
            keys.forget_old();
            if let Some(call) = keys.calls.get(key) {
                if call.asked != asked.digest {
                    return Err(DWCPError::InvalidOperation(format!(
                        "the idempotency key {:?} was used with another request",
                        key.key
                    )));
                }
                Arc::clone(call)
            } else {
                if keys.calls.len() >= KEYS_MAX {
                    return Err(DWCPError::ResourceLimit(format!(
                        "idempotency keys: {KEYS_MAX} were used in the last ten minutes"
                    )));
                }
                let call = Arc::new(Call {
                    asked: asked.digest,
                    answer: tokio::sync::Mutex::default(),
                });
                keys.order.push_back((Instant::now(), key.clone()));
                keys.calls.insert(key.clone(), Arc::clone(&call));
                call
            }
        };
        let mut answer = call.answer.lock().await;
        if let Some(answer) = &*answer {
            return Ok(answer.clone());
        }
        let result = work.await;
        match &result {
            Ok(value) => *answer = Some(value.clone()),
            // Nothing happened, so the key is free: also for something else.
            Err(_) => self.lock().forget(key, &call),
        }
        result
    }

    fn lock(&self) -> MutexGuard<'_, Keys<T>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Keys<T> {
    fn forget_old(&mut self) {
        while let Some((at, key)) = self.order.front() {
            if at.elapsed() < KEPT_FOR {
                return;
            }
            self.calls.remove(key);
            self.order.pop_front();
        }
    }

    fn forget(&mut self, key: &Key, call: &Arc<Call<T>>) {
        if self
            .calls
            .get(key)
            .is_some_and(|own| Arc::ptr_eq(own, call))
        {
            self.calls.remove(key);
            self.order.retain(|(_, known)| known != key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// Counts how often it is done.
    struct Work(AtomicU32);

    impl Work {
        async fn slow(&self) -> Result<u32> {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Ok(self.0.fetch_add(1, Ordering::Relaxed))
        }
    }

    fn once<T: Clone>() -> Once<T> {
        Once::new("create", &[], |_| None)
    }

    fn asked(key: &str, what: &str) -> Asked {
        Asked::new(key.to_owned(), &what).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn calls_in_flight_are_joined() {
        let (once, work) = (once(), Work(AtomicU32::new(0)));
        let (k, other) = (asked("k", "payload"), asked("other", "payload"));
        let ask = || once.once(&k, work.slow());
        let (a, b, c) = tokio::join!(ask(), ask(), ask());
        assert_eq!((a, b, c), (Ok(0), Ok(0), Ok(0)));
        assert_eq!(ask().await, Ok(0));
        assert_eq!(once.once(&other, work.slow()).await, Ok(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_stands_for_one_request_for_ten_minutes() {
        let (once, work) = (once(), Work(AtomicU32::new(0)));
        assert_eq!(once.once(&asked("k", "one"), work.slow()).await, Ok(0));
        let two = asked("k", "two");
        let error = once.once(&two, work.slow()).await.unwrap_err();
        assert!(matches!(error, DWCPError::InvalidOperation(_)), "{error}");
        tokio::time::sleep(KEPT_FOR).await;
        assert_eq!(once.once(&two, work.slow()).await, Ok(1));
        assert_eq!(once.lock().calls.len(), 1);
        assert_eq!(once.lock().order.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn keys_of_different_people_are_different() {
        let (once, work) = (once(), Work(AtomicU32::new(0)));
        let mine = asked("k", "one");
        let mut theirs = asked("k", "two");
        theirs.key.principal = "ci".into();
        assert_eq!(once.once(&mine, work.slow()).await, Ok(0));
        assert_eq!(once.once(&theirs, work.slow()).await, Ok(1));
    }

    #[tokio::test]
    async fn an_error_is_not_kept() {
        let once = once();
        let fails = async { Err(DWCPError::ResourceLimit("full".into())) };
        assert!(once.once(&asked("k", "1"), fails).await.is_err());
        assert!(once.lock().calls.is_empty() && once.lock().order.is_empty());
        assert_eq!(once.once(&asked("k", "2"), async { Ok(7) }).await, Ok(7));
    }

    #[tokio::test]
    async fn keys_are_bounded() {
        let once = once();
        for n in 0..KEYS_MAX {
            once.once(&asked(&n.to_string(), ""), async { Ok(()) })
                .await
                .unwrap();
        }
        let error = once.once(&asked("more", ""), async { Ok(()) }).await;
        assert!(matches!(error, Err(DWCPError::ResourceLimit(_))));
        let known = once.once(&asked("0", ""), async { Ok(()) }).await;
        assert_eq!(known, Ok(()));
    }

    #[tokio::test]
    async fn what_was_stored_is_answered_while_it_is_young() {
        let first = once::<u32>();
        let (k, old, gone) = (asked("k", "7"), asked("old", "8"), asked("gone", "9"));
        let mut stored = Vec::new();
        for (asked, answer) in [(&k, "7"), (&old, "8"), (&gone, "")] {
            match first.stored(asked, answer.to_owned()) {
                Write::Answer { answer, .. } => stored.push(answer),
                other => panic!("{other:?}"),
            }
        }
        let ten_minutes_ago = Timestamp::now().as_unix_micros() - 600_000_000;
        stored[1].at = Timestamp::from_unix_micros(ten_minutes_ago);
        stored.push(Answer {
            operation: "migrate".into(),
            key: "migrate's".into(),
            ..stored[0].clone()
        });
        let again = Once::new("create", &stored, |text| text.parse::<u32>().ok());
        assert_eq!(again.once(&k, async { Ok(1) }).await, Ok(7));
        assert_eq!(again.once(&old, async { Ok(2) }).await, Ok(2));
        assert_eq!(again.once(&gone, async { Ok(3) }).await, Ok(3));
        let other = again.once(&asked("k", "other"), async { Ok(4) }).await;
        assert!(matches!(other, Err(DWCPError::InvalidOperation(_))));
        let migrates = asked("migrate's", "7");
        assert_eq!(again.once(&migrates, async { Ok(5) }).await, Ok(5));
    }
}
