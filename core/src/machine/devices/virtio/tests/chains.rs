//! Requests as drivers make them, and as none does.

use virtio_bindings::bindings::virtio_mmio::VIRTIO_MMIO_QUEUE_READY;

use super::super::MmioDevice;
use super::*;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

fn descriptor(gpa: u64, len: u32, flags: u16, next: u16) -> Descriptor {
    Descriptor {
        gpa,
        len,
        flags,
        next,
    }
}

/// A queue of 16 whose table holds these descriptors, the first of which is made available.
fn with_table(descriptors: &[Descriptor]) -> Driver<Echo> {
    let mut driver = Driver::started(0, 16);
    let table = driver.rings[0].table;
    for (index, &descriptor) in (0..).zip(descriptors) {
        driver.write_descriptor(table, index, descriptor);
    }
    driver.offer(0, 0);
    driver.notify(0);
    driver
}

/// The device stopped without a request having been handled, and says so once.
fn assert_stopped(what: &str, mut driver: Driver<Echo>) {
    assert_eq!(driver.status(), DRIVER_OK | NEEDS_RESET, "{what}");
    assert_eq!(driver.handled(0), 0, "{what}");
    assert_eq!(
        (driver.lines.take(), driver.acknowledge()),
        (1, 2),
        "{what}"
    );
    assert_eq!(driver.used(0), None, "{what}");
    // Nothing more happens, whatever the driver does, until it resets the device.
    driver.notify(0);
    driver.device.pause();
    driver.device.resume();
    assert_eq!((driver.handled(0), driver.lines.take()), (0, 0), "{what}");
    driver.start(0, 16);
    driver.push(0, &[out(BUFFERS, 1), inward(BUFFERS, 2)]);
    driver.notify(0);
    assert_eq!(driver.used(0), Some((0, 2)), "{what}");
}

#[test]
fn requests_go_round_the_rings() {
    for features in [0, EVENT_IDX] {
        let mut driver = Driver::started(features, 4);
        for round in 0..70_000_u32 {
            let head = driver.push(0, &[out(BUFFERS, 3), inward(BUFFERS, round % 7)]);
            driver.notify(0);
            assert_eq!(driver.used(0), Some((head.into(), round % 7)));
        }
        assert_eq!(driver.used(0), None);
        assert_eq!(driver.handled(0), 70_000);
    }
}

#[test]
fn one_notification_is_enough_for_all_there_is() {
    let mut driver = Driver::started(0, 16);
    let heads: Vec<_> = (0..16)
        .map(|_| driver.push(0, &[inward(BUFFERS, 1)]))
        .collect();
    driver.notify(0);
    let used: Vec<_> = std::iter::from_fn(|| driver.used(0))
        .map(|(id, _)| id as u16)
        .collect();
    assert_eq!(used, heads);
}

#[test]
fn requests_before_the_start_are_found_by_it() {
    let mut driver = Driver::echo();
    driver.start(0, 16);
    let rings = driver.rings.clone();
    driver.negotiate(VERSION_1);
    driver.set_up(0, &rings[0]);
    driver.push(0, &[inward(BUFFERS, 1)]);
    driver.notify(0);
    assert_eq!(driver.used(0), None, "before the start");
    driver.set_status(DRIVER_OK);
    assert_eq!(driver.used(0), Some((0, 1)));
}

#[test]
fn empty_buffers_are_none() {
    let mut driver = Driver::started(0, 16);
    driver.push(
        0,
        &[
            out(BUFFERS, 0),
            out(BUFFERS, 5),
            inward(0, 0),
            inward(RAM, 0),
        ],
    );
    driver.notify(0);
    assert_eq!(driver.used(0), Some((0, 0)));
    assert_eq!(driver.last(), (5, 0));
}

#[test]
fn the_last_byte_of_memory_is_a_buffer() {
    let driver = with_table(&[descriptor(RAM - 1, 1, WRITE, 0)]);
    assert_eq!((driver.handled(0), driver.last()), (1, (0, 1)));
}

#[test]
fn chains_that_no_driver_makes_stop_the_device() {
    let ok = BUFFERS;
    for (what, table) in [
        ("a loop of one", vec![descriptor(ok, 1, NEXT, 0)]),
        (
            "a loop of two",
            vec![descriptor(ok, 1, NEXT, 1), descriptor(ok, 1, NEXT, 0)],
        ),
        (
            "a loop behind the start",
            vec![descriptor(ok, 1, NEXT, 1), descriptor(ok, 1, NEXT, 1)],
        ),
        ("a next that is none", vec![descriptor(ok, 1, NEXT, 16)]),
        ("a next far away", vec![descriptor(ok, 1, NEXT, u16::MAX)]),
        ("a buffer behind RAM", vec![descriptor(RAM, 1, 0, 0)]),
        (
            "a buffer out of RAM",
            vec![descriptor(RAM - 1, 2, WRITE, 0)],
        ),
        (
            "a buffer round the end",
            vec![descriptor(u64::MAX, 2, WRITE, 0)],
        ),
        ("a buffer of 4 GiB", vec![descriptor(0, u32::MAX, 0, 0)]),
        (
            "2^32 bytes",
            vec![descriptor(ok, 1, NEXT, 1), descriptor(0, u32::MAX, 0, 0)],
        ),
        (
            "to read behind to write",
            vec![descriptor(ok, 1, NEXT | WRITE, 1), descriptor(ok, 1, 0, 0)],
        ),
        (
            "an indirect table of no length",
            vec![descriptor(ok, 0, INDIRECT, 0)],
        ),
        (
            "an indirect table of odd length",
            vec![descriptor(ok, 17, INDIRECT, 0)],
        ),
        (
            "an indirect table behind RAM",
            vec![descriptor(RAM, 16, INDIRECT, 0)],
        ),
        (
            "an indirect table too long",
            vec![descriptor(0, 16 << 16, INDIRECT, 0)],
        ),
        (
            "an indirect table behind a buffer, which is empty",
            vec![descriptor(ok, 1, NEXT, 1), descriptor(ok, 0, INDIRECT, 0)],
        ),
    ] {
        assert_stopped(what, with_table(&table));
    }
    let mut driver = Driver::started(0, 16);
    driver.offer(0, 16);
    driver.notify(0);
    assert_stopped("a head that is none", driver);
}

#[test]
fn indirect_tables_are_read() {
    let table = BUFFERS + 0x1000;
    let fill = |driver: &Driver<Echo>, count: u16| {
        for index in 0..count {
            let flags = if index + 1 < count { NEXT } else { WRITE };
            driver.write_descriptor(table, index, descriptor(BUFFERS, 2, flags, index + 1));
        }
    };
    // Also more than the queue has places, up to the longest queue there is.
    for count in [1, 2, 17, 256] {
        let mut driver = Driver::started(0, 16);
        fill(&driver, count);
        driver.push(0, &[descriptor(table, u32::from(count) * 16, INDIRECT, 0)]);
        driver.notify(0);
        assert_eq!(driver.used(0), Some((0, 2)), "{count}");
        assert_eq!(driver.last().0, u64::from(count - 1) * 2);
    }
    let mut driver = Driver::started(0, 16);
    fill(&driver, 257);
    driver.push(0, &[descriptor(table, 257 * 16, INDIRECT, 0)]);
    driver.notify(0);
    assert_stopped("257 descriptors", driver);
    // A table within a table.
    let mut driver = Driver::started(0, 16);
    driver.write_descriptor(table, 0, descriptor(table, 16, INDIRECT, 0));
    driver.push(0, &[descriptor(table, 16, INDIRECT, 0)]);
    driver.notify(0);
    assert_stopped("a table of itself", driver);
}

#[test]
fn rings_that_run_away_stop_the_device() {
    for jump in [17, 300, 0x8000, u16::MAX] {
        let driver = Driver::started(0, 16);
        driver.poke(driver.rings[0].available + 2, jump);
        driver.notify(0);
        assert_stopped(&format!("available jumps to {jump}"), driver);
    }
}

#[test]
fn rings_outside_memory_stop_the_device() {
    for part in 0..3 {
        for at in [RAM, RAM + 0x1000, 0xffff_ffff_ffff_f000] {
            let mut driver = Driver::started(0, 16);
            let mut ring = driver.rings[0].clone();
            driver.negotiate(VERSION_1);
            // What is in memory lets it come as far as that part.
            driver.push(0, &[inward(BUFFERS, 1)]);
            *[&mut ring.table, &mut ring.available, &mut ring.used][part] = at;
            driver.set_up(0, &ring);
            assert_eq!(driver.get(VIRTIO_MMIO_QUEUE_READY), 1);
            driver.set_status(DRIVER_OK);
            assert_stopped(&format!("part {part} at {at:#x}"), driver);
        }
    }
    // The used ring ends with the memory: its start can be written and its places cannot.
    let mut driver = Driver::started(0, 16);
    let mut ring = driver.rings[0].clone();
    driver.negotiate(VERSION_1);
    driver.push(0, &[inward(BUFFERS, 1)]);
    ring.used = RAM - 4;
    driver.set_up(0, &ring);
    driver.set_status(DRIVER_OK);
    assert_eq!(driver.status(), DRIVER_OK | NEEDS_RESET);
}

#[test]
fn a_request_that_a_device_calls_broken_stops_it() {
    let mut driver = Driver::started(0, 16);
    driver.device.device.breaks.store(true, Ordering::SeqCst);
    driver.push(0, &[inward(BUFFERS, 1)]);
    driver.push(0, &[inward(BUFFERS, 1)]);
    driver.notify(0);
    assert_eq!(
        (driver.handled(0), driver.status()),
        (1, DRIVER_OK | NEEDS_RESET)
    );
    assert_eq!(driver.used(0), None);
}

#[test]
fn the_driver_says_when_it_wants_to_be_interrupted() {
    let mut driver = Driver::started(EVENT_IDX, 16);
    let event = driver.rings[0].used_event();
    let ask = |driver: &mut Driver<Echo>, from: u16, count: u16| {
        driver.poke(event, from);
        for _ in 0..count {
            driver.push(0, &[inward(BUFFERS, 1)]);
        }
        driver.notify(0);
        driver.lines.take()
    };
    assert_eq!(ask(&mut driver, 0, 1), 1); // used becomes 1, past 0
    assert_eq!(ask(&mut driver, 1, 1), 1);
    assert_eq!(ask(&mut driver, 5, 3), 0); // 5: not past 5
    assert_eq!(ask(&mut driver, 5, 1), 1); // 6
    assert_eq!(ask(&mut driver, 8, 5), 1); // once for all of them
    assert_eq!(ask(&mut driver, 0, 1), 0); // long past
}

#[test]
fn the_device_says_when_it_wants_to_be_notified() {
    let mut driver = Driver::started(EVENT_IDX, 16);
    let event = driver.rings[0].available_event();
    for round in 1..20_u16 {
        driver.push(0, &[inward(BUFFERS, 1)]);
        driver.notify(0);
        assert_eq!(driver.bytes(event, 2), round.to_le_bytes());
    }
    // Without that feature, by a flag: it wants to be notified while it waits.
    let mut driver = Driver::started(0, 16);
    driver.push(0, &[inward(BUFFERS, 1)]);
    driver.notify(0);
    assert_eq!(driver.bytes(driver.rings[0].used, 2), [0, 0]);
    assert_eq!(driver.bytes(event, 2), [0, 0]);
}

#[test]
fn nothing_is_taken_in_a_pause_and_nothing_is_lost_by_it() {
    let mut driver = Driver::started(EVENT_IDX, 16);
    driver.device.pause();
    driver.device.pause();
    driver.push(0, &[inward(BUFFERS, 1)]);
    driver.notify(0);
    driver.push(1, &[inward(BUFFERS, 1)]); // not even notified
    assert_eq!((driver.handled(0), driver.handled(1)), (0, 0));
    driver.device.resume();
    assert_eq!((driver.handled(0), driver.handled(1)), (1, 1));
    driver.device.resume();
    assert_eq!((driver.handled(0), driver.handled(1)), (1, 1));
}
