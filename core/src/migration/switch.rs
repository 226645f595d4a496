//! When to switch: the rule, and nothing else.

use std::time::Duration;

/// What the switch costs beside the last pages, until it has been measured: stopping the vCPUs, state,
/// two round trips, starting them.
const FIXED_COST: Duration = Duration::from_micros(1_500);
/// A round has to lower the expected downtime by this factor to be worth another one.
const WORTHWHILE: f64 = 0.8;
/// Rounds in a row that lowered nothing before a downtime within the limit is taken: at first one near
/// the best there was, then, so that a lucky round is not waited for again for ever, one less near.
const PATIENCE: u32 = 2;

/// Decides after each round. Iterates while a round lowers the expected downtime; the limit is only an
/// upper bound.
#[derive(Clone, Debug)]
pub(super) struct SwitchRule {
    limit: Duration,
    /// Bytes per second of the rounds so far, recent ones counting more.
    rate: Option<f64>,
    best: Option<Duration>,
    idle_rounds: u32,
    /// The guest is held back.
    slowed: bool,
}

/// What the rule says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Decision {
    pub(super) switch: bool,
    /// The trend says that the limit will not be reached as the guest runs now.
    pub(super) hopeless: bool,
    /// Rounds no longer lower the downtime, and it is more than it need be: what is left is better sent after the
    /// switch, where that is permitted.
    pub(super) stuck: bool,
    /// The downtime, were the switch made now.
    pub(super) expected: Duration,
}

impl SwitchRule {
    pub(super) fn new(limit: Duration) -> Self {
        Self {
            limit,
            rate: None,
            best: None,
            idle_rounds: 0,
            slowed: false,
        }
    }

    /// The guest is held back, or more than before: what the rounds so far gained says nothing of the next
    /// ones. From now on the first downtime within the limit is taken.
    pub(super) fn slowed(&mut self) {
        self.slowed = true;
        self.idle_rounds = 0;
    }

    /// A round of so many bytes took so long.
    pub(super) fn round_sent(&mut self, bytes: u64, time: Duration) {
        // Small rounds say more of round trips than of throughput.
        if bytes < 256 << 10 && self.rate.is_some() {
            return;
        }
        let now = bytes as f64 / time.as_secs_f64().max(1e-6);
        self.rate = Some(self.rate.map_or(now, |rate| 0.5 * rate + 0.5 * now));
    }

    /// Whether so many bytes could be sent in the pause.
    pub(super) fn allows(&self, bytes: u64) -> bool {
        let time = self.rate.map(|rate| transfer(bytes, rate));
        time.is_some_and(|time| time.saturating_add(FIXED_COST) <= self.limit)
    }

    /// With so many bytes left to send: switch, or send another round?
    pub(super) fn decide(&mut self, left: u64) -> Decision {
        let Some(rate) = self.rate else {
            // Nothing sent yet.
            return Decision {
                switch: false,
                hopeless: false,
                stuck: false,
                expected: Duration::MAX,
            };
        };
        let expected = transfer(left, rate).saturating_add(FIXED_COST);
        let better = self
            .best
            .is_none_or(|best| expected < best.mul_f64(WORTHWHILE));
        if better {
            self.best = Some(expected);
            self.idle_rounds = 0;
        } else {
            self.idle_rounds += 1;
        }
        // As good as it gets: what is left takes less than the rest of the switch.
        let at_the_bottom = expected <= FIXED_COST * 2;
        let no_more_gain = self.idle_rounds.checked_sub(PATIENCE).is_some_and(|over| {
            let slack = WORTHWHILE.recip().powi(over.min(64).cast_signed() + 1);
            self.best
                .is_some_and(|best| expected.as_secs_f64() <= best.as_secs_f64() * slack)
        });
        let within = expected <= self.limit;
        Decision {
            switch: within && (at_the_bottom || no_more_gain || self.slowed),
            hopeless: !within && self.idle_rounds >= PATIENCE,
            stuck: !at_the_bottom && self.idle_rounds > 0,
            expected,
        }
    }
}

fn transfer(bytes: u64, rate: f64) -> Duration {
    let time = Duration::try_from_secs_f64(bytes as f64 / rate.max(1.0));
    time.unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn run(limit: Duration, mut dirty: impl FnMut(Duration) -> u64) -> (u32, Option<Duration>) {
        let mut rule = SwitchRule::new(limit);
        let mut left = 1024 * MIB;
        for round in 0..60 {
            let decision = rule.decide(left);
            if decision.switch {
                return (round, Some(decision.expected));
            }
            // 1 GiB/s.
            let time = Duration::from_secs_f64(left as f64 / (1024 * MIB) as f64);
            rule.round_sent(left, time);
            left = dirty(time);
        }
        (60, None)
    }

    #[test]
    fn an_idle_guest_switches_after_one_round() {
        let (rounds, expected) = run(Duration::from_millis(500), |_| 0);
        assert_eq!((rounds, expected), (1, Some(FIXED_COST)));
    }

    #[test]
    fn a_busy_guest_is_followed_to_the_bottom() {
        // 400 MiB/s of a working set of 64 MiB: every round is 0.4 of the one before.
        let dirty =
            |time: Duration| ((time.as_secs_f64() * 400.0 * MIB as f64) as u64).min(64 * MIB);
        let (rounds, expected) = run(Duration::from_millis(500), dirty);
        assert!(rounds < 10, "{rounds} rounds");
        assert!(expected.unwrap() <= FIXED_COST * 2, "{expected:?}");
    }

    #[test]
    fn one_lucky_round_is_not_waited_for_for_ever() {
        let mut round = 0;
        let dirty = |_| {
            round += 1;
            if round == 3 { 8 * MIB } else { 64 * MIB }
        };
        let (rounds, expected) = run(Duration::from_millis(500), dirty);
        assert!(rounds < 20, "{rounds} rounds");
        assert!(expected.unwrap() < Duration::from_millis(70));
    }

    #[test]
    fn what_gains_nothing_is_hopeless_until_the_guest_is_slower() {
        let mut rule = SwitchRule::new(Duration::from_millis(20));
        let round = |rule: &mut SwitchRule, left: u64| {
            let decision = rule.decide(left);
            rule.round_sent(64 * MIB, Duration::from_millis(64));
            (decision.switch, decision.hopeless)
        };
        assert_eq!(round(&mut rule, 1024 * MIB), (false, false));
        // The first of these is the best so far, the second may have been bad luck.
        assert_eq!(round(&mut rule, 64 * MIB), (false, false));
        assert_eq!(round(&mut rule, 64 * MIB), (false, false));
        assert_eq!(round(&mut rule, 64 * MIB), (false, true));
        rule.slowed();
        assert_eq!(round(&mut rule, 60 * MIB), (false, false));
        assert_eq!(round(&mut rule, 60 * MIB), (false, true));
        rule.slowed();
        // 16 ms: within the limit, and not waited for to get better.
        assert_eq!(round(&mut rule, 15 * MIB), (true, false));
    }

    #[test]
    fn what_does_not_converge_switches_within_the_limit_or_not_at_all() {
        // Writes faster than is sent: 32 MiB, or 30 ms, are always left.
        let dirty = |_| 32 * MIB;
        let (rounds, expected) = run(Duration::from_millis(500), dirty);
        assert!(rounds <= 5, "{rounds} rounds");
        assert!(expected.unwrap() < Duration::from_millis(40));
        assert_eq!(run(Duration::from_millis(20), dirty), (60, None));
    }
}
