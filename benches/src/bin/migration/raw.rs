//! The floor: as many bytes as the guest fills, copied over loopback TCP beside a guest that spins and stays.
//!
//! One thread writes and one reads for each connection, 1 MiB at a time, in the process that runs the guest, as both
//! nodes of the example are. The memory that is copied is anonymous, which the kernel backs as it likes to. What is
//! copied into was touched before, but for [`Mode::Cold`].

use std::{
    env,
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use dwcp::{Backend, GuestReport, Node, VMClient, VMConfig};
use dwcp_benches::Failure;
use serde_json::json;

use crate::{
    cases::{BEAT_HZ, Case, Mode, Sizes},
    ours::backend,
    outcome::{self, Outcome},
};

/// What one call writes, or reads.
const PIECE: usize = 1 << 20;
/// A page of the guest, and the least that memory is touched by.
const PAGE: usize = 4096;
/// Between two looks at a guest that fills its memory.
const LOOK: Duration = Duration::from_millis(50);
/// How long a guest may take to fill it.
const FILL: Duration = Duration::from_secs(60);

/// Copies once, in a process of its own.
///
/// # Errors
///
/// When that cannot be started.
pub(crate) fn run(case: Case, sizes: Sizes) -> Result<Outcome, Failure> {
    let mut command = Command::new(env::current_exe()?);
    command.args(["--helper", "raw"]);
    let is_cold = u64::from(case.mode == Mode::Cold);
    for number in [
        sizes.memory,
        sizes.fill,
        sizes.working_set(case.load),
        case.load.rate.into(),
        case.mode.connections().into(),
        is_cold,
    ] {
        command.arg(number.to_string());
    }
    let output = outcome::output(&mut command)?;
    Ok(match outcome::object(&output) {
        Ok(report) => outcome::figures(&report),
        Err(why) => Outcome::Failed(why),
    })
}

/// The process of its own, with the words of [`run`]: prints what it took.
pub(crate) fn copy(arguments: &[String]) -> Result<(), Failure> {
    let numbers: Result<Vec<u64>, _> = arguments.iter().map(|word| word.parse()).collect();
    let numbers = numbers?;
    let [memory, fill, working_set, rate, connections, is_cold] = numbers[..] else {
        return Err("--helper raw takes six numbers".into());
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let node = Node::builder("bench").backend(match backend() {
        "kvm" => Backend::Kvm,
        _ => Backend::Sim,
    });
    let node = runtime.block_on(node.start())?;
    let vms = node.client().vm();
    let guest = runtime.block_on(start(&vms, memory, fill, working_set, rate))?;

    let bytes = usize::try_from(fill)?;
    let source = words(bytes);
    let mut destination = vec![0; bytes];
    if is_cold == 0 {
        for page in destination.chunks_mut(PAGE) {
            page[0] = 1;
        }
    }
    // Also begins the measure of the longest silence.
    let before = runtime.block_on(vms.verify(&guest))?;
    let began = Instant::now();
    let took = over_tcp(&source, &mut destination, usize::try_from(connections)?)?;
    let after = runtime.block_on(vms.guest_report(&guest))?;
    let elapsed = began.elapsed();
    if source != destination {
        return Err("what arrived is not what was sent".into());
    }
    println!("{}", report(fill, took, &before, &after, elapsed)?);
    runtime.block_on(node.shutdown(Duration::ZERO))?;
    Ok(())
}

/// The report, with the names that the example has.
fn report(
    bytes: u64,
    took: Duration,
    before: &GuestReport,
    after: &GuestReport,
    elapsed: Duration,
) -> Result<serde_json::Value, Failure> {
    // Two steps, for there is no way without loss from `u64`.
    let megabytes = f64::from(u32::try_from(bytes >> 20)?) * f64::from(1 << 20) / 1e6;
    let written = after.pages_written.saturating_sub(before.pages_written);
    Ok(json!({
        "total_ms": took.as_secs_f64() * 1e3,
        "first_round_mb_s": megabytes / took.as_secs_f64(),
        "downtime_seen_ms": Duration::from_micros(after.longest_beat_gap_us).as_secs_f64() * 1e3,
        "dirty_pages_per_second_achieved": f64::from(u32::try_from(written)?) / elapsed.as_secs_f64(),
    }))
}

/// Starts the guest of a load, and waits until its memory is filled; its id.
async fn start(
    vms: &VMClient,
    memory: u64,
    fill: u64,
    working_set: u64,
    rate: u64,
) -> Result<String, Failure> {
    let config = VMConfig::builder()
        .name("bystander")
        .memory(memory)
        .cpus(1)
        .annotations([
            ("dwcp.pulse/fill", fill.to_string()),
            ("dwcp.pulse/working-set", working_set.to_string()),
            ("dwcp.pulse/dirty-pages-per-second", rate.to_string()),
            ("dwcp.pulse/beat-hz", BEAT_HZ.to_string()),
            ("dwcp.pulse/spin", true.to_string()),
        ])
        .build()?;
    let id = vms.create(config).await?.id;
    vms.start(&id).await?;
    let began = Instant::now();
    while vms.guest_report(&id).await?.pages_filled * 4096 < fill {
        if began.elapsed() > FILL {
            return Err(format!("the guest has not filled its memory within {FILL:?}").into());
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(id)
}

/// So many bytes that nothing could be saved of: words as the guests have.
fn words(bytes: usize) -> Vec<u8> {
    let mut memory = vec![0; bytes];
    let mut word = 0_u64;
    for place in memory.chunks_exact_mut(8) {
        word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
        place.copy_from_slice(&word.to_le_bytes());
    }
    memory
}

/// Copies over so many connections, each a part; the time from the first byte to the last.
fn over_tcp(
    source: &[u8],
    destination: &mut [u8],
    connections: usize,
) -> Result<Duration, Failure> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let mut pairs = Vec::new();
    for _ in 0..connections {
        let writer = TcpStream::connect(address)?;
        let (reader, _) = listener.accept()?;
        writer.set_nodelay(true)?;
        pairs.push((writer, reader));
    }
    let part = source.len().div_ceil(connections.max(1)).max(1);
    let parts = source.chunks(part).zip(destination.chunks_mut(part));
    let began = Instant::now();
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for ((from, to), (mut writer, mut reader)) in parts.zip(pairs) {
            threads.push(scope.spawn(move || {
                from.chunks(PIECE)
                    .try_for_each(|piece| writer.write_all(piece))
            }));
            threads.push(scope.spawn(move || {
                to.chunks_mut(PIECE)
                    .try_for_each(|piece| reader.read_exact(piece))
            }));
        }
        for thread in threads {
            thread
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("a thread that copied panicked")))?;
        }
        Ok::<(), Failure>(())
    })?;
    Ok(began.elapsed())
}

#[cfg(test)]
mod tests {
    use super::{PIECE, over_tcp, words};

    #[test]
    fn all_arrives_over_one_connection_and_over_several() {
        let source = words(3 * PIECE + 8);
        for connections in [1, 2, 3] {
            let mut destination = vec![0; source.len()];
            over_tcp(&source, &mut destination, connections).unwrap();
            assert!(source == destination, "{connections} connections");
        }
    }
}
