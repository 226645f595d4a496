//! Idempotency keys: a request that is repeated is done once.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::error::{DWCPError, Result};

/// How long an answer is kept: far longer than any client tries again.
pub(super) const KEPT_FOR: Duration = Duration::from_secs(600);
/// Most keys kept at once, so that a caller who never uses one twice does not fill the memory.
pub(super) const KEYS_MAX: usize = 16_384;

/// Answers by key. `P` is what was asked, `T` the answer.
#[derive(Debug)]
pub(super) struct Once<P, T>(Mutex<Keys<P, T>>);

#[derive(Debug)]
struct Keys<P, T> {
    calls: HashMap<String, Arc<Call<P, T>>>,
    /// In the order they came, which is that in which they go.
    order: VecDeque<(Instant, String)>,
}

#[derive(Debug)]
struct Call<P, T> {
    asked: P,
    /// Held while the first call is under way; those that come meanwhile wait for it.
    answer: tokio::sync::Mutex<Option<T>>,
}

impl<P, T> Default for Once<P, T> {
    fn default() -> Self {
        Once(Mutex::new(Keys {
            calls: HashMap::new(),
            order: VecDeque::new(),
        }))
    }
}

impl<P: PartialEq, T: Clone> Once<P, T> {
    /// The answer that this key got before, or that `work` gives. Calls with the same key wait for
    /// each other. An error is not kept: whoever comes next tries again.
    ///
    /// # Errors
    ///
    /// `invalid_operation` for a key that came with something else, `resource_limit` when there are
    /// too many keys, and those of `work`.
    pub(super) async fn once(
        &self,
        key: String,
        asked: P,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let call = {
            let mut keys = self.lock();
            keys.forget_old();
            if let Some(call) = keys.calls.get(&key) {
                if call.asked != asked {
                    return Err(DWCPError::InvalidOperation(format!(
                        "the idempotency key {key:?} was used with another request"
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
                    asked,
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
            Err(_) => self.lock().forget(&key, &call),
        }
        result
    }

    fn lock(&self) -> MutexGuard<'_, Keys<P, T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<P, T> Keys<P, T> {
    fn forget_old(&mut self) {
        while let Some((at, key)) = self.order.front() {
            if at.elapsed() < KEPT_FOR {
                return;
            }
            self.calls.remove(key);
            self.order.pop_front();
        }
    }

    fn forget(&mut self, key: &str, call: &Arc<Call<P, T>>) {
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

    #[tokio::test(start_paused = true)]
    async fn calls_in_flight_are_joined() {
        let (once, work) = (Once::default(), Work(AtomicU32::new(0)));
        let ask = || once.once("k".into(), "payload", work.slow());
        let (a, b, c) = tokio::join!(ask(), ask(), ask());
        assert_eq!((a, b, c), (Ok(0), Ok(0), Ok(0)));
        assert_eq!(ask().await, Ok(0));
        assert_eq!(
            once.once("other".into(), "payload", work.slow()).await,
            Ok(1)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_stands_for_one_request_for_ten_minutes() {
        let (once, work) = (Once::default(), Work(AtomicU32::new(0)));
        assert_eq!(once.once("k".into(), "one", work.slow()).await, Ok(0));
        let error = once.once("k".into(), "two", work.slow()).await.unwrap_err();
        assert!(matches!(error, DWCPError::InvalidOperation(_)), "{error}");
        tokio::time::sleep(KEPT_FOR).await;
        assert_eq!(once.once("k".into(), "two", work.slow()).await, Ok(1));
        assert_eq!(once.lock().calls.len(), 1);
        assert_eq!(once.lock().order.len(), 1);
    }

    #[tokio::test]
    async fn an_error_is_not_kept() {
        let once = Once::default();
        let fails = async { Err(DWCPError::ResourceLimit("full".into())) };
        assert!(once.once("k".into(), 1, fails).await.is_err());
        assert!(once.lock().calls.is_empty() && once.lock().order.is_empty());
        assert_eq!(once.once("k".into(), 2, async { Ok(7) }).await, Ok(7));
    }

    #[tokio::test]
    async fn keys_are_bounded() {
        let once = Once::default();
        for n in 0..KEYS_MAX {
            once.once(n.to_string(), (), async { Ok(()) })
                .await
                .unwrap();
        }
        let error = once.once("more".into(), (), async { Ok(()) }).await;
        assert!(matches!(error, Err(DWCPError::ResourceLimit(_))));
        assert_eq!(once.once("0".into(), (), async { Ok(()) }).await, Ok(()));
    }
}
