//! Scenarios: what testees do, and what must come of it, as data.

use std::collections::HashMap;
use std::time::Duration;

use dwcp::ErrorCode;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Fault;
use crate::oracle;
use crate::pattern::matches;
use crate::testee::{Sent, Testee};
use crate::world::World;

/// Those that there are, in the order of the matrix.
const ALL: &[&str] = &[
    include_str!("../scenarios/story.json"),
    include_str!("../scenarios/connect.json"),
    include_str!("../scenarios/errors.json"),
    include_str!("../scenarios/mistakes.json"),
    include_str!("../scenarios/cancel.json"),
    include_str!("../scenarios/timeout.json"),
    include_str!("../scenarios/payloads.json"),
    include_str!("../scenarios/ordered.json"),
    include_str!("../scenarios/slow.json"),
    include_str!("../scenarios/dropped.json"),
    include_str!("../scenarios/console.json"),
    include_str!("../scenarios/restart.json"),
    include_str!("../scenarios/closed.json"),
    include_str!("../scenarios/concurrent.json"),
];

/// What is played.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    pub(crate) name: String,
    /// For the matrix.
    pub(crate) about: String,
    steps: Vec<Step>,
}

/// What has to come of a request.
#[derive(Debug, Default, Deserialize)]
struct Expected {
    /// A pattern for what it gives.
    gives: Option<Value>,
    /// One of these codes, where it is to fail.
    fails: Option<Vec<String>>,
    /// Names for parts of what it gives.
    #[serde(default)]
    names: HashMap<String, String>,
}

/// One thing that is done. Words that begin with `$` are names for values.
#[derive(Debug, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case", deny_unknown_fields)]
enum Step {
    /// A request, and its answer.
    Ask {
        ask: Value,
        #[serde(default)]
        expect: Expected,
    },
    /// The same request many times at once.
    All {
        count: usize,
        ask: Value,
        #[serde(default)]
        expect: Expected,
    },
    /// A request whose answer is waited for later.
    Begin { ask: Value, name: String },
    /// Takes it back.
    Cancel { name: String },
    /// Waits for it.
    End {
        name: String,
        #[serde(default)]
        expect: Expected,
    },
    /// The request again and again until it gives what it must.
    Until { ask: Value, expect: Expected },
    /// Every code there is.
    Codes { client: String },
    /// So many labels of a VM, one after the other, by somebody else; each is an event. Waits for each
    /// hundredth until the testee asks for the next items.
    Updates { vm: Value, count: u64, size: usize },
    /// So many items of a stream, whose numbers rise.
    Ordered {
        stream: String,
        count: u64,
        path: String,
    },
    /// How much memory the testee has.
    Memory { name: String },
    /// That it has not become much more.
    GrownLess { name: String, bytes: u64 },
    /// Ends the node and starts it anew.
    Restart,
}

/// All scenarios.
pub(crate) fn all() -> Result<Vec<Scenario>, Fault> {
    let read = |text: &&str| serde_json::from_str(text).map_err(|error| format!("{error}: {text}"));
    ALL.iter().map(read).collect()
}

/// A scenario that is being played.
struct Play<'a> {
    testee: &'a Testee,
    names: HashMap<String, Value>,
    begun: HashMap<String, Sent>,
}

impl Scenario {
    /// Plays it.
    pub(crate) async fn play(&self, world: &mut World, testee: &Testee) -> Result<(), Fault> {
        let names = world.names()?;
        let mut play = Play {
            testee,
            names: names
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
            begun: HashMap::new(),
        };
        for (index, step) in self.steps.iter().enumerate() {
            let done = play.step(step, world).await;
            done.map_err(|fault| format!("step {}: {fault}", index + 1))?;
        }
        Ok(())
    }
}

impl Play<'_> {
    async fn step(&mut self, step: &Step, world: &mut World) -> Result<(), Fault> {
        match step {
            Step::Ask { ask, expect } => {
                let sent = self.send(ask).await?;
                self.hold(expect, sent.answer().await?)
            }
            Step::All { count, ask, expect } => {
                let mut all = Vec::new();
                for _ in 0..*count {
                    all.push(self.send(ask).await?);
                }
                for sent in all {
                    self.hold(expect, sent.answer().await?)?;
                }
                Ok(())
            }
            Step::Begin { ask, name } => {
                let sent = self.send(ask).await?;
                self.begun.insert(name.clone(), sent);
                Ok(())
            }
            Step::Cancel { name } => {
                let id = self
                    .begun
                    .get(name)
                    .ok_or("nothing was begun by that name")?
                    .id;
                let sent = self.send(&json!({"do": "cancel", "request": id})).await?;
                self.hold(&Expected::default(), sent.answer().await?)
            }
            Step::End { name, expect } => {
                let sent = self
                    .begun
                    .remove(name)
                    .ok_or("nothing was begun by that name")?;
                self.hold(expect, sent.answer().await?)
            }
            Step::Until { ask, expect } => self.until(ask, expect).await,
            Step::Codes { client } => self.codes(client).await,
            Step::Updates { vm, count, size } => {
                let vm = self.filled(vm);
                updates(world, vm.as_str().unwrap_or_default(), *count, *size).await
            }
            Step::Ordered {
                stream,
                count,
                path,
            } => self.ordered(stream, *count, path).await,
            Step::Memory { name } => {
                let memory = self.memory().await?;
                self.names.insert(name.clone(), memory.into());
                Ok(())
            }
            Step::GrownLess { name, bytes } => {
                let before = self
                    .names
                    .get(name)
                    .and_then(Value::as_u64)
                    .unwrap_or_default();
                let grown = self.memory().await?.saturating_sub(before);
                if grown < *bytes {
                    return Ok(());
                }
                Err(format!("it took another {grown} bytes"))
            }
            Step::Restart => world.restart().await,
        }
    }

    async fn send(&self, ask: &Value) -> Result<Sent, Fault> {
        self.testee.send(self.filled(ask)).await
    }

    /// With values in the place of names.
    fn filled(&self, value: &Value) -> Value {
        match value {
            Value::String(word) => self.names.get(word).unwrap_or(value).clone(),
            Value::Array(items) => items.iter().map(|item| self.filled(item)).collect(),
            Value::Object(fields) => {
                let fields = fields
                    .iter()
                    .map(|(name, value)| (name.clone(), self.filled(value)));
                Value::Object(fields.collect())
            }
            _ => value.clone(),
        }
    }

    /// Holds an answer against what is expected.
    fn hold(&mut self, expect: &Expected, answer: Result<Value, Value>) -> Result<(), Fault> {
        let given = match (answer, &expect.fails) {
            (Ok(given), None) => given,
            (Err(error), Some(codes)) => {
                let code = error["code"].as_str().unwrap_or_default();
                let known = codes.iter().any(|expected| expected == code);
                let complete = error["message"].is_string()
                    && error["retryable"].is_boolean()
                    && error["class"]
                        .as_str()
                        .is_some_and(|class| !class.is_empty());
                return match (known, complete) {
                    (true, true) => Ok(()),
                    (true, false) => Err(format!("the error lacks something: {error}")),
                    (false, _) => Err(format!("it must fail with {codes:?}, and did with {error}")),
                };
            }
            (Ok(given), Some(codes)) => {
                return Err(format!("it must fail with {codes:?}, and gave {given}"));
            }
            (Err(error), None) => return Err(format!("it failed: {error}")),
        };
        if let Some(pattern) = &expect.gives {
            matches(&self.filled(pattern), &given)?;
        }
        for (name, path) in &expect.names {
            let part = given
                .pointer(path)
                .ok_or_else(|| format!("there is no {path} in {given}"))?;
            self.names.insert(name.clone(), part.clone());
        }
        Ok(())
    }

    async fn until(&mut self, ask: &Value, expect: &Expected) -> Result<(), Fault> {
        const TIMES: u32 = 600;
        let mut last = String::new();
        for _ in 0..TIMES {
            let sent = self.send(ask).await?;
            match self.hold(expect, sent.answer().await?) {
                Ok(()) => return Ok(()),
                Err(fault) => last = fault,
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Err(format!("it never came to that: {last}"))
    }

    async fn codes(&mut self, client: &str) -> Result<(), Fault> {
        let mut classes: HashMap<String, &str> = HashMap::new();
        for code in ErrorCode::ALL {
            let id = oracle::id_of(code.number());
            let ask =
                json!({"do": "call", "client": client, "method": "start", "args": {"id": id}});
            let error = match self.send(&ask).await?.answer().await? {
                Err(error) => error,
                Ok(given) => return Err(format!("{code}: it gave {given}")),
            };
            let expected = json!({
                "code": code.name(), "message": "as asked", "retryable": code.is_retryable(),
                "class": "<text>",
            });
            matches(&expected, &error).map_err(|fault| format!("{code}: {fault}"))?;
            let class = error["class"].as_str().unwrap_or_default().to_owned();
            if let Some(other) = classes.insert(class, code.name()) {
                return Err(format!("{code}: has the class of {other}"));
            }
        }
        Ok(())
    }

    async fn ordered(&mut self, stream: &str, count: u64, path: &str) -> Result<(), Fault> {
        let mut last: Option<u64> = None;
        let mut seen = 0;
        while seen < count {
            let ask = json!({"do": "next", "stream": stream, "count": (count - seen).min(500)});
            let given = self.send(&ask).await?.answer().await?;
            let given = given.map_err(|error| format!("after {seen} items: {error}"))?;
            let items = given["items"].as_array().ok_or("no items")?;
            for item in items {
                let number = item.pointer(path).and_then(Value::as_u64);
                let number = number.ok_or_else(|| format!("no number in {item}"))?;
                if last.is_some_and(|last| number != last + 1) {
                    return Err(format!("{number} comes after {last:?}"));
                }
                last = Some(number);
            }
            seen += items.len() as u64;
            if given["ended"] == true && seen < count {
                return Err(format!("the stream ended after {seen} items"));
            }
        }
        Ok(())
    }

    async fn memory(&self) -> Result<u64, Fault> {
        let given = self
            .testee
            .send(json!({"do": "memory"}))
            .await?
            .answer()
            .await?;
        let given = given.map_err(|error| error.to_string())?;
        given["rss"]
            .as_u64()
            .ok_or_else(|| format!("no number of bytes in {given}"))
    }
}

/// Changes a VM again and again.
async fn updates(world: &World, vm: &str, count: u64, size: usize) -> Result<(), Fault> {
    let vms = world.here()?.client().vm();
    for number in 0..count {
        let padding = "x".repeat(size);
        let annotations = [("number".to_owned(), format!("{number}{padding}"))];
        let updated = vms.update(vm, None, Some(annotations.into())).await;
        updated.map_err(|error| error.to_string())?;
    }
    Ok(())
}
