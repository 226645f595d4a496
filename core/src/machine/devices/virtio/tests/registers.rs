//! The registers, in the order that a driver uses them and in every other.

use proptest::prelude::*;
use virtio_bindings::bindings::virtio_mmio::*;

use super::super::MmioDevice;
use super::*;

#[test]
fn a_driver_finds_the_device() {
    let driver = Driver::echo();
    assert_eq!(driver.get(0).to_le_bytes(), *b"virt");
    assert_eq!((driver.get(4), driver.get(8)), (2, 42));
    assert_eq!(driver.status(), 0);
    assert_eq!(driver.offered(), 1 << 32 | 1 << 29 | 1 << 28);
    driver.set(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 2);
    assert_eq!(driver.get(VIRTIO_MMIO_DEVICE_FEATURES), 0);
    assert_eq!(
        [0, 1, 2, u32::MAX].map(|queue| driver.select(queue)),
        [256, 16, 0, 0]
    );
    // There is no shared memory.
    assert_eq!((driver.get(0xb0), driver.get(0xb4)), (u32::MAX, u32::MAX));
}

#[test]
fn accesses_of_other_widths_and_places_mean_nothing() {
    let driver = Driver::started(0, 16);
    for (offset, len) in [
        (0, 1),
        (0, 2),
        (0, 8),
        (1, 4),
        (2, 2),
        (0x70, 1),
        (0xf8, 4),
        (0x4, 0),
    ] {
        let mut data = vec![0; len];
        driver.device.read(offset, &mut data);
        assert_eq!(data, vec![0xff; len], "{offset:#x}");
        driver.device.write(offset, &vec![0; len]);
    }
    assert_eq!(driver.status(), DRIVER_OK);
    let mut data = [0; 3];
    driver.device.read(0x103, &mut data);
    assert_eq!(data, [4, 5, 0]);
    driver.device.read(u64::MAX, &mut data);
    assert_eq!(data, [0; 3]);
    driver.device.write(u64::MAX, &data);
}

#[test]
fn features_that_are_not_offered_are_not_accepted() {
    let driver = Driver::echo();
    for (features, wanted) in [
        (VERSION_1, FEATURES_OK),
        (VERSION_1 | EVENT_IDX, FEATURES_OK),
        (EVENT_IDX, DRIVER),
        (0, DRIVER),
        (VERSION_1 | 1, DRIVER),
        (VERSION_1 | 1 << 33, DRIVER),
        (u64::MAX, DRIVER),
    ] {
        driver.set_status(0);
        driver.set_status(ACKNOWLEDGE);
        driver.set_status(DRIVER);
        driver.accept(features);
        driver.set_status(FEATURES_OK);
        assert_eq!(driver.status(), wanted, "{features:#x}");
        driver.set_status(DRIVER_OK);
        let wanted = if wanted == FEATURES_OK {
            DRIVER_OK
        } else {
            DRIVER
        };
        assert_eq!(driver.status(), wanted, "{features:#x}");
    }
}

#[test]
fn the_steps_cannot_be_skipped_or_taken_back() {
    let driver = Driver::echo();
    driver.accept(VERSION_1); // before there is a driver
    driver.set_status(DRIVER_OK);
    assert_eq!(driver.status(), DRIVER);
    driver.accept(VERSION_1);
    driver.set_status(8);
    assert_eq!(driver.status(), FEATURES_OK);
    driver.accept(u64::MAX);
    driver.set_status(NEEDS_RESET | 0xffff_ff00 | 16);
    assert_eq!(driver.status(), FEATURES_OK);
    driver.set_status(4);
    assert_eq!(driver.status(), DRIVER_OK);
    assert_eq!(
        *driver.device.device.activated.lock().unwrap(),
        Some(VERSION_1)
    );
    driver.set_status(1);
    assert_eq!(driver.status(), DRIVER_OK);
    // A driver that gives up is served no more.
    driver.set_status(128);
    assert_eq!(driver.status(), DRIVER_OK | 128);
    driver.set_status(0);
    assert_eq!(driver.status(), 0);
}

#[test]
fn queues_are_set_up_between_features_and_start() {
    let mut driver = Driver::started(0, 16);
    let ring = driver.rings[0].clone();
    driver.set_status(0);
    driver.set_up(0, &ring);
    assert_eq!(
        driver.get(VIRTIO_MMIO_QUEUE_READY),
        0,
        "before the features"
    );
    driver.negotiate(VERSION_1);
    driver.set_up(0, &ring);
    assert_eq!(driver.get(VIRTIO_MMIO_QUEUE_READY), 1);
    driver.set_up(2, &ring);
    assert_eq!(
        driver.get(VIRTIO_MMIO_QUEUE_READY),
        0,
        "there is no such queue"
    );
    driver.set_status(DRIVER_OK);
    driver.set_up(1, &ring);
    assert_eq!(driver.get(VIRTIO_MMIO_QUEUE_READY), 0, "after the start");
    driver.notify(1);
    driver.notify(7);
    assert_eq!(driver.status(), DRIVER_OK);
    // It can be taken out of use, and comes back with the next reset.
    driver.select(0);
    driver.set(VIRTIO_MMIO_QUEUE_READY, 0);
    assert_eq!(driver.get(VIRTIO_MMIO_QUEUE_READY), 0);
    driver.offer(0, 0);
    driver.notify(0);
    driver.set_up(0, &ring);
    assert_eq!(driver.get(VIRTIO_MMIO_QUEUE_READY), 0);
    assert_eq!((driver.handled(0), driver.status()), (0, DRIVER_OK));
}

#[test]
fn a_queue_that_cannot_be_stops_the_device() {
    for (size, table, available, used) in [
        (0, 0x1000, 0x2000, 0x3000),
        (3, 0x1000, 0x2000, 0x3000),
        (512, 0x1000, 0x2000, 0x3000),
        (0x1_0010, 0x1000, 0x2000, 0x3000),
        (16, 0x1008, 0x2000, 0x3000),
        (16, 0x1000, 0x2001, 0x3000),
        (16, 0x1000, 0x2000, 0x3002),
    ] {
        let driver = Driver::echo();
        driver.negotiate(VERSION_1);
        driver.select(0);
        driver.set(VIRTIO_MMIO_QUEUE_NUM, size);
        driver.set(VIRTIO_MMIO_QUEUE_DESC_LOW, table);
        driver.set(VIRTIO_MMIO_QUEUE_AVAIL_LOW, available);
        driver.set(VIRTIO_MMIO_QUEUE_USED_LOW, used);
        driver.set(VIRTIO_MMIO_QUEUE_READY, 1);
        assert_eq!(driver.get(VIRTIO_MMIO_QUEUE_READY), 0, "{size} {table:#x}");
        assert_eq!(driver.status(), FEATURES_OK | NEEDS_RESET);
        assert_eq!(
            driver.lines.take(),
            0,
            "a driver that has not begun is not interrupted"
        );
        driver.set_status(DRIVER_OK);
        driver.set_status(0);
        assert_eq!(driver.status(), 0);
    }
}

#[test]
fn an_interrupt_stays_until_it_is_acknowledged() {
    let mut driver = Driver::started(0, 16);
    driver.push(0, &[inward(BUFFERS, 4)]);
    driver.notify(0);
    driver.device.mmio.core().change_config(|| {});
    assert_eq!(driver.lines.take(), 2);
    assert_eq!(driver.get(VIRTIO_MMIO_INTERRUPT_STATUS), 3);
    driver.set(VIRTIO_MMIO_INTERRUPT_ACK, 1);
    assert_eq!(driver.get(VIRTIO_MMIO_INTERRUPT_STATUS), 2);
    // What was not acknowledged is sent again after a pause.
    driver.device.pause();
    driver.device.resume();
    assert_eq!(driver.lines.take(), 1);
    driver.set(VIRTIO_MMIO_INTERRUPT_ACK, u32::MAX);
    driver.device.pause();
    driver.device.resume();
    assert_eq!(driver.lines.take(), 0);
    driver.device.mmio.core().change_config(|| {});
    driver.set_status(0);
    assert_eq!(driver.get(VIRTIO_MMIO_INTERRUPT_STATUS), 0);
}

#[test]
fn a_reset_by_the_machine_is_that_of_power_on() {
    let mut driver = Driver::started(EVENT_IDX, 16);
    driver.push(0, &[inward(BUFFERS, 4)]);
    driver.notify(0);
    driver.select(1);
    driver.device.pause();
    driver.device.reset();
    let fresh = Driver::paused(Echo::default(), Workers::Caller);
    assert_eq!(driver.device.save(), fresh.device.save());
    assert_eq!(driver.device.device.resets.load(Ordering::SeqCst), 1 + 1);
    driver.device.resume();
    driver.start(EVENT_IDX, 16);
    driver.push(0, &[inward(BUFFERS, 4)]);
    driver.notify(0);
    assert_eq!(driver.used(0), Some((0, 4)));
}

proptest! {
    /// Whatever is done to the registers, the device answers, keeps the rules of the status, and works
    /// after a reset.
    #[test]
    fn no_sequence_of_accesses_breaks_it(
        accesses in proptest::collection::vec((any::<bool>(), 0_u32..0x44, any::<u8>(), any::<u32>()), 0..200)
    ) {
        let mut driver = Driver::echo();
        let mut before = 0;
        for (write, word, choice, value) in accesses {
            let register = word * 4;
            // Mostly values that lead somewhere.
            let value = match choice % 4 {
                0 => value,
                1 => value % 16,
                2 => 0x1000 * (value % 1100),
                _ => [1, 3, 11, 15, 0, 128, 1 << 29, 256][value as usize % 8],
            };
            if write {
                driver.set(register, value);
            } else {
                driver.get(register);
            }
            let status = driver.status();
            let reset = write && register == VIRTIO_MMIO_STATUS && value & 0xff == 0;
            prop_assert!(status & before == before || reset, "{before:#x} became {status:#x}");
            prop_assert!(status & 4 == 0 || status & FEATURES_OK == FEATURES_OK, "{status:#x}");
            before = status;
        }
        driver.start(EVENT_IDX, 16);
        driver.push(0, &[inward(BUFFERS, 4)]);
        driver.notify(0);
        prop_assert_eq!(driver.used(0), Some((0, 4)));
    }
}
