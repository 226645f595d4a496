//! A balloon and its driver.

use std::sync::Arc;

use super::super::MmioDevice;
use super::super::core::Workers;
use super::super::driver::*;
use super::*;
use crate::memory::{DirtyLog, Harvester};

fn driver() -> Driver<Balloon> {
    let mut driver = Driver::new(Balloon::default(), Workers::Caller);
    driver.start(driver.offered(), 16);
    driver
}

/// Writes page numbers for a request.
fn numbers(driver: &Driver<Balloon>, pages: impl IntoIterator<Item = u32>) -> Descriptor {
    let bytes: Vec<u8> = pages.into_iter().flat_map(u32::to_le_bytes).collect();
    driver.ram.write(BUFFERS, &bytes).unwrap();
    out(BUFFERS, bytes.len() as u32)
}

fn figures(driver: &Driver<Balloon>, figures: &[(u16, u64)]) -> Descriptor {
    let mut bytes = Vec::new();
    for (tag, value) in figures {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(value.to_le_bytes());
    }
    driver.ram.write(BUFFERS, &bytes).unwrap();
    out(BUFFERS, bytes.len() as u32)
}

#[test]
fn lent_pages_take_no_memory_and_a_copy_learns_of_it() {
    let mut driver = driver();
    let log = Arc::clone(&driver.lines) as Arc<dyn DirtyLog>;
    let harvester = Harvester::new(Arc::clone(&driver.ram), log);
    let first = u32::try_from(BUFFERS / PAGE_SIZE).unwrap() + 64;
    for page in first..first + 100 {
        driver
            .ram
            .write(u64::from(page) * PAGE_SIZE, &[1; 4096])
            .unwrap();
    }
    let migration = harvester.subscribe().unwrap();
    migration.harvest().unwrap();
    // In no order, one of them twice, and some that are no RAM.
    let pages = (first..first + 50)
        .rev()
        .chain([first + 7, first + 90, 1024, u32::MAX]);
    let request = numbers(&driver, pages);
    let before = driver.ram.resident().unwrap();
    driver.push(INFLATE, &[request]);
    driver.notify(INFLATE);
    assert_eq!(driver.used(INFLATE), Some((0, 0)));
    assert_eq!(before - driver.ram.resident().unwrap(), 51 * PAGE_SIZE);
    let changed = migration.harvest().unwrap().pages;
    for page in first..first + 100 {
        let lent = page < first + 50 || page == first + 90;
        assert_eq!(driver.ram.is_zero(page.into()), lent, "page {page}");
        assert_eq!(changed.contains(page.into()), lent, "page {page}");
    }
    // Out of the balloon again: nothing is touched, and the pages can be used.
    driver.push(DEFLATE, &[request]);
    driver.notify(DEFLATE);
    assert_eq!(driver.used(DEFLATE), Some((0, 0)));
    driver
        .ram
        .write(u64::from(first) * PAGE_SIZE, &[9])
        .unwrap();
    assert!(!driver.ram.is_zero(first.into()));
}

#[test]
fn a_request_gives_back_no_more_than_a_pause_waits_for() {
    let mut driver = driver();
    // 64 KiB of the same number, then one that comes too late.
    let page = 900;
    driver.ram.write(u64::from(page) * PAGE_SIZE, &[1]).unwrap();
    let request = numbers(
        &driver,
        std::iter::repeat_n(2000, MAX as usize).chain([page]),
    );
    driver.push(INFLATE, &[request]);
    driver.notify(INFLATE);
    assert_eq!(driver.used(INFLATE), Some((0, 0)));
    assert!(!driver.ram.is_zero(page.into()));
}

const MAX: u32 = 16 << 10;

#[test]
fn the_target_is_told_and_what_is_lent_is_heard() {
    let driver = driver();
    let generation = driver.get(0xfc);
    driver.lines.take();
    driver.device.set_target((1 << 20) + 4095);
    assert_eq!((driver.lines.take(), driver.acknowledge()), (1, 2));
    assert_eq!(driver.get(0xfc), generation + 1);
    assert_eq!(driver.get(0x100), 256);
    driver.set(0x104, 200);
    assert_eq!(
        (driver.get(0x104), driver.device.lent()),
        (200, 200 * PAGE_SIZE)
    );
    // The target is not the driver's to write, and no field is written in part.
    driver.set(0x100, 1);
    driver.device.write(0x104, &[1, 0]);
    driver.device.write(0x106, &[1, 0, 0, 0]);
    assert_eq!((driver.get(0x100), driver.get(0x104)), (256, 200));
    // A new driver lends nothing yet, and is told the same.
    driver.set_status(0);
    assert_eq!((driver.get(0x100), driver.get(0x104)), (256, 0));
    driver.device.set_target(u64::MAX);
    assert_eq!(driver.get(0x100), u32::MAX);
    assert_eq!(driver.lines.take(), 0, "nobody is there to hear it");
}

#[test]
fn figures_are_asked_for_and_come() {
    for features in [EVENT_IDX, 0] {
        let mut driver = Driver::new(Balloon::default(), Workers::Caller);
        driver.start(features | config::FEATURES, 16);
        assert!(
            !driver.device.ask_statistics(),
            "the driver has given no buffer yet"
        );
        let queue = STATISTICS as usize;
        let request = figures(&driver, &[(4, 100), (5, 1000), (99, 7), (6, 300)]);
        let head = driver.push(queue, &[request]);
        driver.notify(queue);
        assert_eq!(driver.used(queue), None, "it stays with the device");
        let statistics = Statistics {
            reports: 1,
            free: Some(100),
            total: Some(1000),
            available: Some(300),
        };
        assert_eq!(driver.device.statistics(), statistics);
        driver.notify(queue);
        assert_eq!(driver.device.statistics().reports, 2);

        driver.lines.take();
        assert!(driver.device.ask_statistics());
        assert_eq!(driver.lines.take(), 1);
        assert_eq!(driver.used(queue), Some((head.into(), 0)));
        assert!(
            !driver.device.ask_statistics(),
            "it was asked and has not answered"
        );
        let request = figures(&driver, &[(4, 50)]);
        driver.push(queue, &[request]);
        driver.notify(queue);
        let statistics = driver.device.statistics();
        assert_eq!(
            (statistics.reports, statistics.free, statistics.total),
            (3, Some(50), None)
        );
        assert_eq!(driver.status(), DRIVER_OK);
    }
}

#[test]
fn figures_that_are_cut_or_endless_are_taken_as_far_as_they_go() {
    let mut driver = driver();
    let queue = STATISTICS as usize;
    let mut request = figures(&driver, &[(4, 100), (5, 1000)]);
    request.len -= 1;
    driver.push(queue, &[request]);
    driver.notify(queue);
    assert_eq!(driver.device.statistics().free, Some(100));
    assert_eq!(driver.device.statistics().total, None);
    driver.device.ask_statistics();
    let many: Vec<_> = (0..100).map(|i| (4, i)).collect();
    let request = figures(&driver, &many);
    driver.push(queue, &[request]);
    driver.notify(queue);
    assert_eq!(driver.device.statistics().free, Some(63));
}

#[test]
fn the_buffer_for_figures_moves_with_the_guest() {
    let mut driver = driver();
    let queue = STATISTICS as usize;
    let request = figures(&driver, &[(4, 100)]);
    driver.push(queue, &[request]);
    driver.notify(queue);
    driver.device.set_target(1 << 20);
    driver.device.pause();
    assert!(
        !driver.device.ask_statistics(),
        "nothing is given back in a pause"
    );
    let saved = driver.device.save();
    let ram = Arc::clone(&driver.ram);
    let next = Driver::over(Balloon::default(), Workers::Caller, ram);
    next.device.load(&saved).unwrap();
    assert_eq!(next.device.save(), saved);
    driver.device = next.device;
    driver.lines = next.lines;
    assert_eq!(driver.device.statistics().free, Some(100));
    driver.device.resume();
    assert_eq!(
        driver.lines.take(),
        1,
        "the new target was not acknowledged yet"
    );
    assert!(driver.device.ask_statistics());
    assert_eq!(driver.used(queue), Some((0, 0)));
}

#[test]
fn a_mark_that_is_none_is_refused() {
    let mut body = vec![0; 8];
    body.extend(1_u64.to_le_bytes());
    body.extend([2, 0, 0, 0, 0, 0, 0, 0, 0]);
    body.extend([0; 18]);
    let error = Balloon::default()
        .load(&mut Reader::new(&body))
        .unwrap_err();
    assert!(error.to_string().contains("marked by 2"), "{error}");
}
