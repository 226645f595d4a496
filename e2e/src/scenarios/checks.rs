//! What guests check inside of themselves while something is done to them (`e2e/guest`).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::guest::Guest;

/// How far a guest's wall clock may come away from its host's.
const WALL: Duration = Duration::from_millis(10);

/// Checks that run in a guest.
pub(super) struct Checks {
    /// Writes to the disk that were seen.
    writes: u64,
    reads: u64,
}

impl Checks {
    /// Starts them.
    pub(super) async fn start(guest: &mut Guest) -> Result<Checks, String> {
        guest.run("rm -f /tmp/clocks /tmp/disk").await?;
        guest.run("(checks clocks /tmp/clocks &)").await?;
        guest.run("(checks disk /mnt/checked /tmp/disk &)").await?;
        guest
            .run("until [ -e /tmp/clocks ] && [ -e /tmp/disk ]; do sleep 0.1; done")
            .await?;
        let mut checks = Checks::attach();
        checks.go_on(guest).await?;
        Ok(checks)
    }

    /// Those that run already, of which nothing has been seen.
    pub(super) fn attach() -> Checks {
        Checks {
            writes: 0,
            reads: 0,
        }
    }

    /// They found nothing wrong, and have done more since the last look.
    pub(super) async fn go_on(&mut self, guest: &mut Guest) -> Result<(), String> {
        for _ in 0..50 {
            let said = guest.run("cat /tmp/clocks /tmp/disk").await?;
            if said.contains("BAD") {
                return Err(format!("the guest found:\n{said}"));
            }
            let (writes, reads) = (number(&said, "writes=")?, number(&said, "reads=")?);
            if writes > self.writes && reads > self.reads {
                (self.writes, self.reads) = (writes, reads);
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Err("the guest's checks do not go on".into())
    }

    /// Ends them, and looks at what the kernel said meanwhile.
    pub(super) async fn end(mut self, guest: &mut Guest) -> Result<String, String> {
        self.go_on(guest).await?;
        let late = number(&guest.run("cat /tmp/clocks").await?, "late_us=")?;
        guest.run("killall checks").await?;
        quiet(guest).await?;
        Ok(format!(
            "{} writes, {} readings of clocks, no timer later than {} ms",
            self.writes,
            self.reads,
            late / 1000
        ))
    }
}

fn number(text: &str, name: &str) -> Result<u64, String> {
    let found = text
        .split_whitespace()
        .find_map(|word| word.strip_prefix(name));
    let number = found.and_then(|found| found.parse().ok());
    number.ok_or_else(|| format!("`{name}` is missing in {text:?}"))
}

/// How far a guest's wall clock is from its host's, within a little, in nanoseconds. What it set itself to when it
/// came up, without a clock of the board, is its affair; afterwards they have to go together.
pub(super) struct WallClock {
    least: i128,
    most: i128,
}

impl WallClock {
    /// Measures it.
    pub(super) async fn read(guest: &mut Guest) -> Result<WallClock, String> {
        let host = || {
            let since = SystemTime::now().duration_since(UNIX_EPOCH);
            since.unwrap_or_default().as_nanos().cast_signed()
        };
        // The guest answers at some moment between these two.
        let before = host();
        let said = guest.run("checks now").await?;
        let after = host();
        let now = i128::from(number(&said, "wall_ns=")?);
        Ok(WallClock {
            least: now - after,
            most: now - before,
        })
    }

    /// They went together since.
    pub(super) async fn check(&self, guest: &mut Guest) -> Result<(), String> {
        let now = WallClock::read(guest).await?;
        let wall = WALL.as_nanos().cast_signed();
        if now.least <= self.most + wall && now.most >= self.least - wall {
            return Ok(());
        }
        let millis = |nanos: i128| nanos as f64 / 1e6;
        Err(format!(
            "the guest's wall clock was {} to {} ms before its host's, and is {} to {} ms now",
            millis(self.least),
            millis(self.most),
            millis(now.least),
            millis(now.most)
        ))
    }
}

/// Its kernel complains of nothing.
pub(super) async fn quiet(guest: &mut Guest) -> Result<(), String> {
    const COMPLAINTS: &str = "soft lockup|hard LOCKUP|rcu.*(stall|starved)|clocksource.*(unstable|skew)|hung task\
         |I/O error|EXT4-fs error|BUG:|Oops";
    let said = guest
        .run(&format!("dmesg | grep -iE '{COMPLAINTS}' || true"))
        .await?;
    match said.trim() {
        "" => Ok(()),
        complaints => Err(format!("the guest's kernel complains:\n{complaints}")),
    }
}
