//! Threads that serve a device while its guest and its machine do something else.

use super::super::MmioDevice;
use super::*;

#[test]
fn nothing_is_lost_however_pauses_fall() {
    for workers in [1, 3] {
        let mut driver = Driver::new(Echo::default(), Workers::Threads(workers));
        driver.start(EVENT_IDX, 16);
        let over = Arc::new(AtomicBool::new(false));
        let (device, told) = (Arc::clone(&driver.device), Arc::clone(&over));
        let machine = std::thread::spawn(move || {
            let mut pauses = 0;
            while !told.load(Ordering::SeqCst) {
                device.pause();
                device.save();
                device.resume();
                pauses += 1;
            }
            pauses
        });
        let (mut asked, mut came) = (0, 0);
        while came < 5000 {
            // As Linux does it: only where the device asked to be notified.
            let wanted = asked < 5000 && asked - came < 16;
            if wanted {
                let ring = &driver.rings[0];
                let event = driver.bytes(ring.available_event(), 2);
                driver.push(0, &[inward(BUFFERS, 1)]);
                let after = driver.bytes(driver.rings[0].available_event(), 2);
                let at = (asked as u16).to_le_bytes();
                asked += 1;
                if [event.as_slice(), &after].contains(&at.as_slice()) {
                    driver.notify(0);
                }
            }
            if driver.used(0).is_some() {
                came += 1;
            } else if !wanted {
                std::thread::yield_now();
            }
        }
        over.store(true, Ordering::SeqCst);
        assert!(machine.join().unwrap() > 0);
        assert_eq!((driver.handled(0), driver.used(0)), (5000, None));
        assert_eq!(driver.status(), DRIVER_OK);
    }
}

#[test]
fn workers_that_slept_while_a_state_was_loaded_are_woken() {
    let mut driver = Driver::started(0, 16);
    driver.device.pause();
    driver.push(0, &[inward(BUFFERS, 1)]);
    let saved = driver.device.save();
    let ram = Arc::clone(&driver.ram);
    let target = Driver::over(Echo::default(), Workers::Threads(2), ram);
    while target.device.mmio.core().sleeping() < 2 {
        std::thread::yield_now();
    }
    target.device.load(&saved).unwrap();
    assert_eq!(target.device.mmio.core().sleeping(), 2);
    target.device.resume();
    while driver.used(0).is_none() {
        std::thread::yield_now();
    }
}

#[test]
fn devices_come_and_go_without_a_trace() {
    let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
    let before = threads();
    for _ in 0..50 {
        let mut driver = Driver::new(Echo::default(), Workers::Threads(2));
        driver.start(0, 16);
        driver.push(0, &[inward(BUFFERS, 1)]);
        driver.notify(0);
    }
    // Other tests run beside this one: theirs may have come and gone, 100 of ours may not stay.
    assert!(
        threads() < before + 50,
        "{} threads, {before} before",
        threads()
    );
}
