//! A testee: a child that answers lines of JSON, in any order.

use std::collections::HashMap;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::oneshot;

use crate::Fault;

/// What takes longer is a failure, and no endless run.
const PATIENCE: Duration = Duration::from_secs(60);

type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<Value>>>>;

/// A testee that runs.
#[derive(Debug)]
pub(crate) struct Testee {
    child: Child,
    input: tokio::sync::Mutex<ChildStdin>,
    waiting: Waiting,
    ids: AtomicU64,
}

/// A request that was sent.
#[derive(Debug)]
pub(crate) struct Sent {
    pub(crate) id: u64,
    answer: oneshot::Receiver<Value>,
}

impl Sent {
    /// Its answer: what is in `ok`, or in `error`.
    pub(crate) async fn answer(self) -> Result<Result<Value, Value>, Fault> {
        let answer = tokio::time::timeout(PATIENCE, self.answer).await;
        let mut answer = answer
            .map_err(|_| format!("no answer within {PATIENCE:?}"))?
            .map_err(|_| "the testee ended before it answered")?;
        match (answer.get("ok").is_some(), answer["error"].take()) {
            (true, Value::Null) => Ok(Ok(answer["ok"].take())),
            (false, error) if error.is_object() => Ok(Err(error)),
            _ => Err(format!("neither a result nor an error: {answer}")),
        }
    }
}

impl Testee {
    /// Starts one; the words of the command are separated by spaces.
    pub(crate) async fn start(command: &str) -> Result<Testee, Fault> {
        let mut words = command.split(' ');
        let program = words.next().unwrap_or_default();
        let mut child = Command::new(program)
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("{program}: {error}"))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("a child without pipes".into());
        };
        let waiting = Waiting::default();
        let answers = Arc::clone(&waiting);
        tokio::spawn(async move {
            let mut lines = BufReader::new(output).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let answer: Value = match serde_json::from_str(&line) {
                    Ok(answer) => answer,
                    Err(error) => {
                        eprintln!("{error}: {line}");
                        break;
                    }
                };
                let mut waiting = answers.lock().unwrap_or_else(PoisonError::into_inner);
                match answer["id"].as_u64().and_then(|id| waiting.remove(&id)) {
                    // Nobody may wait for it any more.
                    Some(waiter) => drop(waiter.send(answer)),
                    None => {
                        eprintln!("an answer that nobody asked for, or a second one: {line}");
                        break;
                    }
                }
            }
            // Whoever waits waits in vain.
            answers
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clear();
        });
        let testee = Testee {
            child,
            input: tokio::sync::Mutex::new(input),
            waiting,
            ids: AtomicU64::new(1),
        };
        let hello = testee.send(json!({"do": "hello"})).await?.answer().await?;
        match hello {
            Ok(hello) if hello["version"] == env!("CARGO_PKG_VERSION") => Ok(testee),
            other => Err(format!("it says of itself: {other:?}")),
        }
    }

    /// Sends a request.
    pub(crate) async fn send(&self, mut request: Value) -> Result<Sent, Fault> {
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        request["id"] = id.into();
        let (waiter, answer) = oneshot::channel();
        {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.insert(id, waiter);
        }
        let line = format!("{request}\n");
        let mut input = self.input.lock().await;
        let written = input.write_all(line.as_bytes()).await;
        written.map_err(|error| format!("the testee does not listen: {error}"))?;
        Ok(Sent { id, answer })
    }

    /// Has it end, which it must with status 0 and without delay.
    pub(crate) async fn end(mut self) -> Result<(), Fault> {
        self.send(json!({"do": "exit"}))
            .await?
            .answer()
            .await?
            .map_err(|error| error.to_string())?;
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        match ended {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(format!("it ended with {status}")),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("it did not end within {PATIENCE:?}")),
        }
    }
}
