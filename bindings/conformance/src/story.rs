//! Programs that tell the same story in their languages.

use std::time::Duration;

use tokio::process::Command;

use crate::Fault;
use crate::world::World;

/// What takes longer is a failure, and no endless run.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a story with nodes of its own, and against two of this process.
pub(crate) async fn tell(command: &str) -> Result<(), Fault> {
    run(command, &[]).await?;
    let world = World::new().await?;
    let arguments = world.remote()?;
    let told = run(command, &arguments).await;
    world.end().await?;
    told.map_err(|fault| format!("over TLS: {fault}"))
}

async fn run(command: &str, arguments: &[String]) -> Result<(), Fault> {
    let mut words = command.split(' ');
    let program = words.next().unwrap_or_default();
    let mut command = Command::new(program);
    let child = command
        .args(words)
        .args(arguments)
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PATIENCE, child)
        .await
        .map_err(|_| format!("it did not end within {PATIENCE:?}"))?
        .map_err(|error| format!("{program}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    if output.status.success() && said.trim_end().ends_with("story: ok") {
        return Ok(());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    Err(format!("{}\n{said}{errors}", output.status))
}
