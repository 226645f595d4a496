//! The hard limit on downtime, against a target that takes too long to load the machine's state. The
//! rule itself is tested by a clock that only the tests move, in `limit`.

use std::time::Duration;

use super::super::Phase;
use super::super::faults::Faults;
use super::support::*;
use crate::model::{MigrationOptions, MigrationState};

const LIMIT: Duration = Duration::from_millis(400);

/// With a load that takes three times the limit, again and again: the guest is back, and says so
/// itself. With `DWCP_LONG` a hundred times, and the longest silence between two of its beats is
/// within a fifth of the limit each time.
#[test]
fn a_slow_load_is_given_up_and_the_guest_is_back() {
    let long = std::env::var_os("DWCP_LONG").is_some();
    let times = if long { 100 } else { 2 };
    // Without TLS, which takes its time on a slow build: the rule is the same.
    for hypervisor in back_ends().into_iter().filter(|one| !one.is_encrypted()) {
        let rates = [
            ("dirty-pages-per-second", "1000"),
            ("beat-hz", "1000"),
            ("fill", "1048576"),
        ];
        let vm = vm(16 << 20, 1, &rates);
        let (a, b) = (Host::new(&hypervisor), Host::new(&hypervisor));
        a.boot(&vm);
        wait_filled(&a.machine(), &vm);
        let mut worst = Duration::ZERO;
        for n in 0..times {
            let pulse = a.machine().pulse().unwrap().clone();
            pulse.forget_longest_gap();
            let limited = MigrationOptions {
                max_downtime: u64::try_from(LIMIT.as_millis()).unwrap(),
                ..options()
            };
            let faults = Faults {
                slow: Some((Phase::Load, LIMIT * 3)),
                ..Faults::default()
            };
            let status = begin(&vm, &a, &b, limited, faults).end();
            assert_eq!(status.state, MigrationState::Failed, "{n}: {status:?}");
            let why = status.error.unwrap();
            assert!(why.contains("limit on downtime"), "{n}: {why}");
            let beats = pulse.report("").beats;
            wait("a beat", || pulse.report("").beats > beats + 1);
            let gap = Duration::from_micros(pulse.report("").longest_beat_gap_us);
            assert!(gap >= LIMIT, "{n}: it stood still for {gap:?} only");
            worst = worst.max(gap);
            // Timings are asserted where there is time for them.
            assert!(!long || gap <= LIMIT.mul_f64(1.2), "{n}: {gap:?}");
            b.settle();
            assert!(a.has_machine() && !b.has_machine());
        }
        println!(
            "{}: {times} times, limit {LIMIT:?}, longest silence {worst:?}",
            hypervisor.name()
        );
        assert_eq!(verify(&a.machine()).faults, 0);
        let status = migrate(&vm, &a, &b, options());
        assert_eq!(status.state, MigrationState::Completed, "{status:?}");
    }
}
