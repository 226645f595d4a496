//! The hard limit on downtime, against a target that takes too long to load the machine's state. The
//! rule itself is tested by a clock that only the tests move, in `limit`.

use std::time::Duration;

use super::super::Phase;
use super::super::faults::Faults;
use super::support::*;
use crate::model::{MigrationOptions, MigrationState};
use crate::test_support::Witness;

/// With a load that takes twice the limit, again and again: the guest is back, and says so
/// itself. With `DWCP_LONG` a hundred times, and the longest silence between two of its beats is
/// within a fifth of the limit each time.
#[test]
fn a_slow_load_is_given_up_and_the_guest_is_back() {
    let long = std::env::var_os("DWCP_LONG").is_some();
    // Where timings are asserted a fifth of the limit is more than a busy host keeps a thread waiting.
    let (times, limit) = if long { (100, 1_000) } else { (2, 300) };
    let limit = Duration::from_millis(limit);
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
        let (mut n, mut disturbed) = (0, 0);
        while n < times {
            let witness = long.then(|| Witness::start(Duration::from_millis(1)));
            let pulse = a.machine().pulse().unwrap().clone();
            pulse.forget_longest_gap();
            let limited = MigrationOptions {
                max_downtime: u64::try_from(limit.as_millis()).unwrap(),
                ..options()
            };
            let faults = Faults {
                slow: Some((Phase::Load, limit * 2)),
                ..Faults::default()
            };
            let status = begin(&vm, &a, &b, limited, faults).end();
            assert_eq!(status.state, MigrationState::Failed, "{n}: {status:?}");
            let why = status.error.unwrap();
            assert!(why.contains("limit on downtime"), "{n}: {why}");
            let beats = pulse.report("").beats;
            wait("a beat", || pulse.report("").beats > beats + 1);
            let gap = Duration::from_micros(pulse.report("").longest_beat_gap_us);
            assert!(gap >= limit, "{n}: it stood still for {gap:?} only");
            let late = witness.map_or(Duration::ZERO, Witness::worst);
            b.settle();
            assert!(a.has_machine() && !b.has_machine());
            // Timings are asserted where there is time for them, and of the guest's own only: a few times
            // in a row a thread has to be woken until it is back.
            if late > limit / 20 {
                disturbed += 1;
                assert!(disturbed <= times, "this host is too busy to tell");
                continue;
            }
            n += 1;
            worst = worst.max(gap);
            assert!(!long || gap <= limit.mul_f64(1.2), "{n}: {gap:?}");
        }
        println!(
            "{}: {times} times, limit {limit:?}, longest silence {worst:?}; {disturbed} more in which \
             the host kept a thread waiting for a twentieth of the limit",
            hypervisor.name()
        );
        assert_eq!(verify(&a.machine()).faults, 0);
        let status = migrate(&vm, &a, &b, options());
        assert_eq!(status.state, MigrationState::Completed, "{status:?}");
    }
}
