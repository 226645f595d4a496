//! A node as a process of its own, for scenarios that move guests between processes: `dwcp-e2e serve NAME DIR`.
//!
//! It prints `READY` with its address, then obeys lines on its standard input: `peer NAME ADDRESS`. When that is
//! closed, it ends.

use std::io::BufRead;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use dwcp::{Client, ClientConfig, Node};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};

use crate::guest::text;
use crate::options::Options;

/// The process's side.
pub(crate) async fn serve(name: &str, dir: &Path) -> Result<(), String> {
    let node = Node::builder(name)
        .data_dir(dir.join(name))
        .disk_dir(dir.join("disks"))
        .listen("127.0.0.1:0")
        .start()
        .await
        .map_err(text)?;
    let address = node.address().ok_or("the node does not listen")?;
    println!("READY {address}");
    let (lines, mut orders) = tokio::sync::mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if lines.blocking_send(line).is_err() {
                break;
            }
        }
    });
    while let Some(order) = orders.recv().await {
        let words: Vec<&str> = order.split(' ').collect();
        match words[..] {
            ["peer", name, address] => node.add_peer(name, address).map_err(text)?,
            _ => return Err(format!("{order:?} is no order")),
        }
        println!("DONE");
    }
    node.shutdown(Duration::from_secs(10)).await.map_err(text)
}

/// A node in another process; killed when this is dropped.
pub(crate) struct NodeProcess {
    pub(crate) name: &'static str,
    pub(crate) client: Client,
    pub(crate) address: String,
    child: Child,
    orders: ChildStdin,
    answers: tokio::io::Lines<BufReader<tokio::process::ChildStdout>>,
}

impl NodeProcess {
    /// Starts one that keeps its things in `dir`, where others may keep theirs, and imports the suite's image.
    pub(crate) async fn start(
        name: &'static str,
        dir: &Path,
        options: &Options,
    ) -> Result<NodeProcess, String> {
        let program = std::env::current_exe().map_err(text)?;
        let mut child = Command::new(program)
            .args(["serve", name])
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(text)?;
        let (orders, output) = child
            .stdin
            .take()
            .zip(child.stdout.take())
            .ok_or("a process without pipes")?;
        let mut answers = BufReader::new(output).lines();
        let line = answers.next_line().await.map_err(text)?;
        let address = line.as_deref().and_then(|line| line.strip_prefix("READY "));
        let Some(address) = address.map(str::to_owned) else {
            return Err(format!("the node {name} said {line:?}"));
        };
        let config = ClientConfig::new(address.clone()).with_tls_enabled(false);
        let client = Client::new(config).await.map_err(text)?;
        let image = options.image.display().to_string();
        client.vm().import_image(&image, None).await.map_err(text)?;
        Ok(NodeProcess {
            name,
            client,
            address,
            child,
            orders,
            answers,
        })
    }

    /// Makes another node known to it.
    pub(crate) async fn introduce(&mut self, other: &NodeProcess) -> Result<(), String> {
        let order = format!("peer {} {}\n", other.name, other.address);
        self.orders
            .write_all(order.as_bytes())
            .await
            .map_err(text)?;
        match self.answers.next_line().await.map_err(text)? {
            Some(answer) if answer == "DONE" => Ok(()),
            other => Err(format!("the node {} answered {other:?}", self.name)),
        }
    }

    /// Its process id.
    pub(crate) fn id(&self) -> Result<u32, String> {
        self.child
            .id()
            .ok_or_else(|| format!("the node {} has ended", self.name))
    }

    /// Kills it, as a crash would, and waits until it is gone.
    pub(crate) async fn kill(mut self) -> Result<(), String> {
        self.child.kill().await.map_err(text)
    }
}
