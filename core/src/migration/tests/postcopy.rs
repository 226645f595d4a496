//! The switch first, then the rest of the memory: what is missing comes once, whatever is lost on the way.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::super::Dial;
use super::super::faults::Faults;
use super::support::*;
use crate::machine::Machine;
use crate::memory::PAGE_SIZE;
use crate::model::{
    MigrationMode, MigrationOptions, MigrationState, MigrationStatus, SameHost, VM,
};
use crate::transport::Address;

/// A guest that writes faster than rounds can follow.
fn guest() -> VM {
    let rates = [
        ("dirty-pages-per-second", "0"),
        ("beat-hz", "100"),
        ("fill", "25165824"),
        ("working-set", "16777216"),
    ];
    vm(48 << 20, 2, &rates)
}

fn post_copy() -> MigrationOptions {
    MigrationOptions {
        post_copy: true,
        auto_converge: false,
        same_host: SameHost::Never,
        ..options()
    }
}

/// So slow that what comes after the switch takes a second or two.
fn slow() -> MigrationOptions {
    MigrationOptions {
        bandwidth: 24 << 20,
        ..post_copy()
    }
}

fn last_round(status: &MigrationStatus) -> u64 {
    status.rounds.last().map_or(0, |round| round.pages)
}

#[test]
fn what_a_guest_outruns_comes_after_the_switch() {
    for back_end in back_ends() {
        for (parallel, verify_checksum) in [(1, false), (1, true), (2, false), (2, true)] {
            let (a, b) = (Host::new(&back_end), Host::new(&back_end));
            let vm = guest();
            a.boot(&vm);
            wait_filled(&a.machine(), &vm);
            let options = MigrationOptions {
                parallel,
                verify_checksum,
                // A round takes long enough for a guest that gets little of a busy host to change all again.
                bandwidth: 32 << 20,
                ..post_copy()
            };
            let status = migrate(&vm, &a, &b, options);
            assert_eq!(status.state, MigrationState::Completed, "{status:?}");
            assert_eq!(status.mode, MigrationMode::Postcopy, "{status:?}");
            assert!(last_round(&status) > 100, "{status:?}");
            assert!(!a.has_machine());
            wait("the last page", || !b.is_awaiting());
            let report = verify(&b.machine());
            assert_eq!(report.faults, 0, "{report:?}");
        }
    }
}

#[test]
fn all_comes_before_the_switch_without_the_permission() {
    let (a, b) = (Host::new(&sim()), Host::new(&sim()));
    let vm = guest();
    a.boot(&vm);
    wait_filled(&a.machine(), &vm);
    let options = MigrationOptions {
        post_copy: false,
        ..post_copy()
    };
    let status = migrate(&vm, &a, &b, options);
    assert_eq!(status.state, MigrationState::Completed, "{status:?}");
    assert_eq!(status.mode, MigrationMode::Precopy);
}

/// Connections to a host, which can be cut: the control connection is the first one.
struct Wires {
    address: SocketAddr,
    open: Arc<Mutex<Vec<TcpStream>>>,
    closed: Arc<AtomicBool>,
}

impl Wires {
    fn to(host: &Host) -> Self {
        let Address::Tcp { port, .. } = host.dial.address else {
            panic!("no TCP");
        };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let wires = Self {
            address: listener.local_addr().unwrap(),
            open: Arc::default(),
            closed: Arc::default(),
        };
        let (open, closed) = (Arc::clone(&wires.open), Arc::clone(&wires.closed));
        std::thread::spawn(move || {
            for near in listener.incoming().map(Result::unwrap) {
                if closed.load(Ordering::SeqCst) {
                    return;
                }
                let far = TcpStream::connect(("127.0.0.1", port)).unwrap();
                pass_on(near.try_clone().unwrap(), far.try_clone().unwrap());
                pass_on(far, near.try_clone().unwrap());
                open.lock().unwrap().push(near);
            }
        });
        wires
    }

    fn dial(&self, host: &Host) -> Dial {
        Dial {
            address: self.address.into(),
            ..host.dial.clone()
        }
    }

    fn count(&self) -> usize {
        self.open.lock().unwrap().len()
    }

    fn cut(&self, which: &[usize]) {
        let open = self.open.lock().unwrap();
        for wire in which {
            let _ = open[*wire].shutdown(Shutdown::Both);
        }
    }

    /// No way leads there any more.
    fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        // It finds that out by the next connection.
        drop(TcpStream::connect(self.address));
        self.cut(&(0..self.count()).collect::<Vec<_>>());
    }
}

/// Copies from one stream to the other until either ends, then ends both.
fn pass_on(mut from: TcpStream, mut to: TcpStream) {
    std::thread::spawn(move || {
        let mut piece = vec![0; 64 << 10];
        while let Ok(length) = from.read(&mut piece) {
            if length == 0 || to.write_all(&piece[..length]).is_err() {
                break;
            }
        }
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    });
}

/// Reads pages of the arriving machine here and there, which waits for each, and compares them with those that
/// the departing one has.
fn compare(arriving: &Machine, departing: &Machine, seed: u64) {
    let pages = departing.ram().layout().pages();
    let (mut here, mut there) = (vec![0; PAGE_SIZE as usize], vec![0; PAGE_SIZE as usize]);
    let mut page = seed;
    for _ in 0..400 {
        page = page.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1) % pages;
        arriving.ram().read(page * PAGE_SIZE, &mut here).unwrap();
        departing.ram().read(page * PAGE_SIZE, &mut there).unwrap();
        assert!(here == there, "page {page}");
    }
}

/// A migration whose guest stands still after the switch, while pages come and `trouble` does its worst.
fn disturbed(back_end: &BackEnd, trouble: impl FnOnce(&Wires, &Host)) {
    let silence = Duration::from_secs(3);
    let (a, b) = (
        Host::impatient(back_end, silence),
        Host::impatient(back_end, silence),
    );
    let vm = guest();
    a.boot(&vm);
    wait_filled(&a.machine(), &vm);
    let departing = a.machine();
    let wires = Wires::to(&b);
    let faults = Faults {
        stand_still: true,
        ..Faults::default()
    };
    let migration = begin_by(wires.dial(&b), &vm, &a, &b, slow(), faults);
    wait("the switch", || b.is_awaiting());
    let arriving = b.machine();
    std::thread::scope(|scope| {
        for seed in [1, 2] {
            let (arriving, departing) = (&arriving, &departing);
            scope.spawn(move || compare(arriving, departing, seed));
        }
        trouble(&wires, &b);
        let status = migration.end();
        assert_eq!(status.state, MigrationState::Completed, "{status:?}");
        assert_eq!(status.mode, MigrationMode::Postcopy);
    });
    wait("the last page", || !b.is_awaiting());
    // Whoever lost its control connection says its verdict for a while: that is not waited for here.
    assert_eq!(arriving.ram().digest(), departing.ram().digest());
}

#[test]
fn a_page_that_is_waited_for_comes_first() {
    for back_end in back_ends().iter().filter(|own| !own.is_encrypted()) {
        disturbed(back_end, |_, _| {});
    }
}

#[test]
fn lost_channels_are_opened_again_and_nothing_is_lost_with_them() {
    for back_end in back_ends().iter().filter(|own| !own.is_encrypted()) {
        for lost in [&[1][..], &[2], &[1, 2], &[0], &[0, 1, 2]] {
            disturbed(back_end, |wires, _| wires.cut(lost));
        }
    }
}

#[test]
fn channels_may_be_lost_again_and_again() {
    let back_ends = back_ends();
    disturbed(back_ends.last().unwrap(), |wires, to| {
        let mut channels = [1, 2];
        let mut cuts = 0;
        while to.is_awaiting() && cuts < 12 {
            let lost = cuts % 2;
            wires.cut(&[channels[lost]]);
            channels[lost] = wires.count();
            wait("the channel", || {
                wires.count() > channels[lost] || !to.is_awaiting()
            });
            cuts += 1;
        }
        assert!(cuts > 0);
    });
}

/// A post-copy that ends while pages are missing; returns how the destination's host saw it.
fn broken_off(
    back_end: &BackEnd,
    trouble: impl FnOnce(&Wires, &Migration),
) -> (String, MigrationStatus) {
    let silence = Duration::from_secs(1);
    let (a, b) = (
        Host::impatient(back_end, silence),
        Host::impatient(back_end, silence),
    );
    let vm = guest();
    a.boot(&vm);
    wait_filled(&a.machine(), &vm);
    let wires = Wires::to(&b);
    let migration = begin_by(wires.dial(&b), &vm, &a, &b, slow(), Faults::default());
    wait("the switch", || b.is_awaiting());
    trouble(&wires, &migration);
    let status = migration.end();
    wait("the end", || !b.is_awaiting());
    wait("the end of the machine", || !b.has_machine());
    let outcome = b.outcome.lock().unwrap().clone();
    (outcome.unwrap_or_default(), status)
}

#[test]
fn a_vm_whose_memory_does_not_come_is_lost_and_both_sides_say_so() {
    for back_end in back_ends().iter().filter(|own| !own.is_encrypted()) {
        let (outcome, status) = broken_off(back_end, |wires, _| wires.close());
        assert!(
            outcome.starts_with("memory lost: a part of its memory"),
            "{outcome}"
        );
        assert_eq!(status.state, MigrationState::Failed, "{status:?}");
        let error = status.error.unwrap_or_default();
        assert!(
            error.contains("(post-copy)") && error.contains("as failed"),
            "{error}"
        );
    }
}

#[test]
fn a_source_that_ends_takes_the_vm_with_it() {
    for back_end in back_ends().iter().filter(|own| !own.is_encrypted()) {
        let (outcome, _) = broken_off(back_end, |wires, migration| {
            migration.outgoing.abandon();
            migration.outgoing.join();
            wires.close();
        });
        assert!(outcome.contains("memory lost"), "{outcome}");
    }
}

#[test]
fn a_switch_that_came_first_cannot_be_cancelled() {
    let back_end = sim();
    let (a, b) = (Host::new(&back_end), Host::new(&back_end));
    let vm = guest();
    a.boot(&vm);
    wait_filled(&a.machine(), &vm);
    let migration = begin(&vm, &a, &b, slow(), Faults::default());
    wait("the switch", || b.is_awaiting());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let refused = runtime.block_on(migration.outgoing.cancel());
    let error = refused.unwrap_err().to_string();
    assert!(error.contains("too late to cancel"), "{error}");
    let status = migration.end();
    assert_eq!(status.state, MigrationState::Completed, "{status:?}");
}
