//! The testee for Rust: does what lines of JSON ask, through the crate's own methods.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "it answers there")]

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dwcp::model::duration;
use dwcp::{
    Action, Client, ClientConfig, DWCPError, Item, Items, MigrationOptions, Outcome, Result,
    SnapshotOptions, StopOptions, Subscription, VMClient, VMConfig,
};
use dwcp_bindings_support::options::ClientOptions;
use futures::StreamExt;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

/// What requests leave behind.
#[derive(Default)]
struct State {
    clients: HashMap<String, Client>,
    streams: HashMap<String, mpsc::Sender<Pull>>,
    running: HashMap<u64, AbortHandle>,
}

type Shared = Arc<Mutex<State>>;

/// What a stream's task is asked.
struct Pull {
    count: usize,
    answer: tokio::sync::oneshot::Sender<Result<Value>>,
}

#[tokio::main]
async fn main() {
    let state = Shared::default();
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let Ok(request) = serde_json::from_str::<Value>(&line) else {
            std::process::exit(3);
        };
        let id = request["id"].as_u64().unwrap_or_default();
        let mine = Arc::clone(&state);
        let work = tokio::spawn(async move { serve(&mine, &request).await });
        lock(&state).running.insert(id, work.abort_handle());
        let mine = Arc::clone(&state);
        tokio::spawn(async move {
            let result = match work.await {
                Ok(result) => result,
                Err(error) if error.is_cancelled() => Err(DWCPError::Cancelled("aborted".into())),
                Err(error) => Err(DWCPError::Internal(error.to_string())),
            };
            lock(&mine).running.remove(&id);
            answer(id, result);
        });
    }
}

fn lock(state: &Shared) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn answer(id: u64, result: Result<Value>) {
    let exits = matches!(&result, Ok(value) if value == "exit");
    let line = match result {
        Ok(_) if exits => json!({"id": id, "ok": {}}),
        Ok(value) => json!({"id": id, "ok": value}),
        Err(error) => {
            let code = error.code().map_or(kind(&error), |code| code.name());
            json!({"id": id, "error": {
                "code": code, "message": error.message(), "retryable": error.is_retryable(),
                "class": class(&error),
            }})
        }
    };
    println!("{line}");
    if exits {
        std::process::exit(0);
    }
}

/// The errors that have no code of the protocol.
fn kind(error: &DWCPError) -> &'static str {
    match error {
        DWCPError::Connection(_) => "connection",
        DWCPError::Io(_) => "io",
        DWCPError::Serialization(_) => "serialization",
        _ => "other",
    }
}

/// The variant.
fn class(error: &DWCPError) -> String {
    let text = format!("{error:?}");
    text.split('(').next().unwrap_or_default().to_owned()
}

fn wrong(text: impl Into<String>) -> DWCPError {
    DWCPError::Config(text.into())
}

fn text<'a>(value: &'a Value, name: &str) -> Result<&'a str> {
    value[name]
        .as_str()
        .ok_or_else(|| wrong(format!("{name}: missing")))
}

fn time(value: &Value, name: &str, default: Duration) -> Result<Duration> {
    value[name].as_str().map_or(Ok(default), duration::parse)
}

fn read<T: DeserializeOwned + Default>(value: &Value, name: &str) -> Result<T> {
    match &value[name] {
        Value::Null => Ok(T::default()),
        value => {
            serde_json::from_value(value.clone()).map_err(|error| wrong(format!("{name}: {error}")))
        }
    }
}

fn told(value: impl Serialize) -> Result<Value> {
    Ok(serde_json::to_value(value)?)
}

fn client(state: &Shared, request: &Value) -> Result<Client> {
    let name = text(request, "client")?;
    let client = lock(state).clients.get(name).cloned();
    client.ok_or_else(|| DWCPError::Connection(format!("there is no client {name}")))
}

async fn serve(state: &Shared, request: &Value) -> Result<Value> {
    match text(request, "do")? {
        "hello" => Ok(json!({"language": "rust", "version": env!("CARGO_PKG_VERSION")})),
        "connect" => {
            let config = ClientOptions::from_json(request["config"].to_string().as_bytes());
            let config = config.map_err(|failure| wrong(failure.message))?;
            let client = Client::new(ClientConfig::from(config)).await?;
            lock(state)
                .clients
                .insert(text(request, "client")?.to_owned(), client);
            Ok(json!({}))
        }
        "call" => {
            call(
                &client(state, request)?,
                text(request, "method")?,
                &request["args"],
            )
            .await
        }
        "cancel" => {
            let id = request["request"].as_u64().unwrap_or_default();
            if let Some(running) = lock(state).running.get(&id) {
                running.abort();
            }
            Ok(json!({}))
        }
        "open" => {
            let items = open(
                &client(state, request)?,
                text(request, "kind")?,
                &request["args"],
            )
            .await?;
            let (sender, pulls) = mpsc::channel(1);
            tokio::spawn(pulled(items, pulls));
            lock(state)
                .streams
                .insert(text(request, "stream")?.to_owned(), sender);
            Ok(json!({}))
        }
        "next" => {
            let stream = lock(state).streams.get(text(request, "stream")?).cloned();
            let count: usize = read(request, "count")?;
            let ended = || json!({"items": [], "ended": true});
            let Some(stream) = stream else {
                return Ok(ended());
            };
            let (answer, given) = tokio::sync::oneshot::channel();
            if stream.send(Pull { count, answer }).await.is_err() {
                return Ok(ended());
            }
            drop(stream);
            given.await.unwrap_or_else(|_| Ok(ended()))
        }
        "close_stream" => {
            lock(state).streams.remove(text(request, "stream")?);
            Ok(json!({}))
        }
        "write_console" => {
            let console = Action::ConsoleWrite {
                vm_id: text(request, "vm")?.to_owned(),
                data: text(request, "data")?.as_bytes().to_vec().into(),
                writer: None,
            };
            client(state, request)?.call(console).await?;
            Ok(json!({}))
        }
        "state" => {
            let client = client(state, request)?;
            Ok(
                json!({"connected": client.is_connected(), "authenticated": client.is_authenticated()}),
            )
        }
        "counters" => told(client(state, request)?.metrics()),
        "disconnect" => {
            client(state, request)?.close().await;
            Ok(json!({}))
        }
        "memory" => {
            let status = std::fs::read_to_string("/proc/self/status")?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
            let kib: Option<u64> =
                line.and_then(|line| line.split_whitespace().next()?.parse().ok());
            Ok(json!({"rss": kib.unwrap_or_default() * 1024}))
        }
        "exit" => Ok("exit".into()),
        other => Err(DWCPError::Unsupported(format!("do: {other}"))),
    }
}

/// A stream has one reader; when nobody may ask it any more, it is dropped, and whoever waits gets the end.
async fn pulled(mut items: Items, mut pulls: mpsc::Receiver<Pull>) {
    while let Some(Pull { count, answer }) = pulls.recv().await {
        let mut given = Vec::new();
        let mut ended = false;
        while given.len() < count && !ended {
            tokio::select! {
                biased;
                item = items.next() => match item {
                    Some(item) => given.push(item),
                    None => ended = true,
                },
                // Its only sender was in the map.
                () = closed(&mut pulls) => ended = true,
            }
        }
        let result = match (ended, items.error()) {
            (true, Some(error)) => Err(error),
            _ => given
                .iter()
                .map(item)
                .collect::<Result<Vec<Value>>>()
                .map(|items| json!({"items": items, "ended": ended})),
        };
        // Whoever asked may be gone.
        let _ = answer.send(result);
    }
}

/// Until nobody can ask any more; requests do not overlap.
async fn closed(pulls: &mut mpsc::Receiver<Pull>) {
    while !pulls.is_closed() {
        if pulls.recv().await.is_none() {
            return;
        }
    }
}

fn item(item: &Item) -> Result<Value> {
    let json = item.to_json()?;
    match item {
        Item::Console(_) => Ok(json
            .iter()
            .map(|byte| char::from(*byte))
            .collect::<String>()
            .into()),
        _ => Ok(serde_json::from_slice(&json)?),
    }
}

async fn open(client: &Client, kind: &str, args: &Value) -> Result<Items> {
    let id = || text(args, "id").map(str::to_owned);
    let watch = |vm_id| -> Result<Subscription> {
        let filters: BTreeMap<String, String> = read(args, "filters")?;
        Ok(Subscription::Watch {
            vm_id,
            filters: filters.into(),
            since: None,
            store: None,
        })
    };
    let subscription = match kind {
        "watch" => watch(Some(id()?))?,
        "watch_all" => watch(None)?,
        "stream_metrics" => Subscription::Metrics {
            vm_id: id()?,
            interval: time(args, "interval", Duration::from_secs(1))?,
        },
        "migration_progress" => Subscription::MigrationProgress {
            migration_id: text(args, "migration_id")?.to_owned(),
        },
        "console" => Subscription::Console {
            vm_id: id()?,
            writer: None,
        },
        other => return Err(DWCPError::Unsupported(format!("kind: {other}"))),
    };
    client.subscribe(subscription).await
}

async fn call(client: &Client, method: &str, args: &Value) -> Result<Value> {
    let vms: VMClient = client.vm();
    let id = || text(args, "id");
    let done = |()| Value::Null;
    let pairs = |name| -> Result<Option<BTreeMap<String, String>>> { read(args, name) };
    let migration = || MigrationOptions::from_value(args["options"].clone());
    match method {
        "create" => told(
            vms.create(VMConfig::from_value(args["config"].clone())?)
                .await?,
        ),
        "start" => vms.start(id()?).await.map(done),
        "stop" => {
            let timeout = args["timeout"].as_str().map(duration::parse).transpose()?;
            let force = read(args, "force")?;
            let options = StopOptions { force, timeout };
            vms.stop_with(id()?, options).await.map(done)
        }
        "destroy" => vms.destroy(id()?).await.map(done),
        "pause" => vms.pause(id()?).await.map(done),
        "resume" => vms.resume(id()?).await.map(done),
        "reset" => vms.reset(id()?).await.map(done),
        "update" => told(
            vms.update(id()?, pairs("labels")?, pairs("annotations")?)
                .await?,
        ),
        "get" => told(vms.get(id()?).await?),
        "list" => {
            let filters: BTreeMap<String, String> = read(args, "filters")?;
            told(vms.list(filters).await?)
        }
        "get_metrics" => {
            let window = time(args, "duration", Duration::from_secs(300))?;
            told(vms.get_metrics(id()?, window).await?)
        }
        "guest_report" => told(vms.guest_report(id()?).await?),
        "verify" => told(vms.verify(id()?).await?),
        "migrate" => told(
            vms.migrate(id()?, text(args, "target")?, migration()?)
                .await?,
        ),
        "plan_migration" => told(
            vms.plan_migration(id()?, text(args, "target")?, migration()?)
                .await?,
        ),
        "get_migration_status" => told(
            vms.get_migration_status(text(args, "migration_id")?)
                .await?,
        ),
        "cancel_migration" => told(vms.cancel_migration(text(args, "migration_id")?).await?),
        "list_migrations" => told(vms.list_migrations().await?),
        "resolve_migration" => {
            let force = read(args, "force")?;
            told(
                vms.resolve_migration(text(args, "migration_id")?, force)
                    .await?,
            )
        }
        "snapshot" => {
            let options = SnapshotOptions::from_value(args["options"].clone())?;
            told(vms.snapshot(id()?, text(args, "name")?, options).await?)
        }
        "list_snapshots" => told(vms.list_snapshots(id()?).await?),
        "restore_snapshot" => vms
            .restore_snapshot(id()?, text(args, "snapshot_id")?)
            .await
            .map(done),
        "delete_snapshot" => vms
            .delete_snapshot(text(args, "snapshot_id")?)
            .await
            .map(done),
        "health" => told(client.health().await?),
        "node" => match client.call(Action::Node).await? {
            Outcome::Node(node) => told(node),
            other => Err(DWCPError::Protocol(format!("{other:?}"))),
        },
        other => Err(DWCPError::Unsupported(format!("method: {other}"))),
    }
}
