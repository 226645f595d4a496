//! Saved devices go on elsewhere, and what was saved by earlier versions is still read.

use super::super::balloon::Balloon;
use super::super::block::{Block, BlockConfig, FileDisk};
use super::super::rng::Rng;
use super::super::{MmioDevice, Virtio};
use super::*;
use crate::hypervisor::{Section, decode, encode};

/// A device in the middle of its work: indexes that have gone round, an interrupt that is pending,
/// selectors that stand somewhere.
fn busy() -> Driver<Echo> {
    let mut driver = Driver::started(EVENT_IDX, 4);
    for _ in 0..70_000 {
        driver.push(0, &[inward(BUFFERS, 1)]);
        driver.notify(0);
        driver.used(0);
    }
    driver.push(1, &[inward(BUFFERS, 1)]);
    driver.notify(1);
    driver.select(1);
    driver.device.mmio.core().change_config(|| {});
    driver.device.pause();
    driver
}

#[test]
fn a_device_goes_on_where_it_was() {
    let driver = busy();
    let saved = driver.device.save();
    let mut next = moved(&driver, Echo::default());
    next.device.load(&saved).unwrap();
    assert_eq!(next.device.save(), saved);
    assert_eq!(next.lines.take(), 0, "nothing happens before it is resumed");
    next.device.resume();
    assert_eq!(next.lines.take(), 1, "the pending interrupt is sent again");
    assert_eq!((next.acknowledge(), next.get(0xfc)), (3, 1));
    assert_eq!(next.handled(0), 0, "what was done is not done again");
    let head = next.push(0, &[inward(BUFFERS, 7)]);
    next.notify(0);
    assert_eq!(next.used(0), Some((head.into(), 7)));
    assert_eq!(next.used(1), Some((0, 1)));
    let activated = *next.device.device.activated.lock().unwrap();
    assert_eq!(activated, Some(EVENT_IDX | VERSION_1));
}

#[test]
fn a_stopped_device_stays_stopped() {
    let driver = Driver::started(0, 16);
    driver.poke(driver.rings[0].available + 2, 99);
    driver.notify(0);
    driver.device.pause();
    let next = moved(&driver, Echo::default());
    next.device.load(&driver.device.save()).unwrap();
    next.device.resume();
    assert_eq!(next.status(), DRIVER_OK | NEEDS_RESET);
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let saved = busy().device.save();
    let refused = |change: &dyn Fn(&mut Vec<Section>)| {
        let mut sections = saved.clone();
        change(&mut sections);
        let fresh = Driver::paused(Echo::default(), Workers::Caller);
        let before = fresh.device.save();
        let error = fresh.device.load(&sections).unwrap_err().to_string();
        assert!(
            error.starts_with("migration: machine state refused: "),
            "{error}"
        );
        assert_eq!(
            fresh.device.save(),
            before,
            "a refused state changes nothing"
        );
        error
    };
    for (index, kind) in ["VirtioMmio", "VirtioCore", "VirtioRng"]
        .into_iter()
        .enumerate()
    {
        let error = refused(&|sections| drop(sections.remove(index)));
        assert!(
            error.contains(&format!("{kind} of device 3 is missing")),
            "{error}"
        );
        let error = refused(&|sections| sections[index].instance = 4);
        assert!(error.contains("is missing"), "{error}");
        let error = refused(&|sections| sections[index].body[0] = 2);
        assert!(error.contains(&format!("version 2 of {kind}")), "{error}");
        let error = refused(&|sections| sections[index].body.push(0));
        assert!(error.contains("1 bytes are left over"), "{error}");
        let error = refused(&|sections| {
            let body = &mut sections[index].body;
            body.truncate(body.len() - 1);
        });
        assert!(error.contains("truncated"), "{error}");
    }
    // Each byte of a body is at its place after the version.
    for (index, at, value, words) in [
        (0, 2, &[4][..], "unknown reasons 0x4"),
        (1, 2, &[2], "is of kind 2, here it is of kind 42"),
        (1, 6, &[1], "features 0x1,"),
        (1, 14, &[16], "unknown bits"),
        (1, 14, &[4], "runs without features"),
        (1, 19, &[3], "3 queues, here it has 2"),
        (1, 21, &[4, 0, 4, 0], "has 4 places, here it has 256"),
        (1, 23, &[3], "invalid queue size"),
        (1, 25, &[2], "readiness is 2"),
        (1, 26, &[8], "alignment"),
    ] {
        let error = refused(&|sections| {
            sections[index].body[at..at + value.len()].copy_from_slice(value);
        });
        assert!(error.contains(words), "{error}: no {words}");
    }
}

/// The state of a device, saved: its features accepted, and what `act` did not acknowledged.
fn sample<D: Device + 'static>(
    device: D,
    act: impl FnOnce(&mut Driver<D>),
) -> (Vec<u8>, Arc<Virtio<D>>) {
    let mut driver = Driver::new(device, Workers::Caller);
    driver.start(driver.offered(), 8);
    act(&mut driver);
    driver.device.pause();
    (encode(&driver.device.save()), driver.device)
}

/// Holds a sample of an earlier version against this one: it is loaded and saved again the same, and
/// the same device is saved so today.
fn hold<D: Device + 'static>(sample: &[u8], today: &[u8], fresh: D) {
    assert_eq!(
        today, sample,
        "the saved form has changed: it needs another version"
    );
    let driver = Driver::paused(fresh, Workers::Caller);
    driver.device.load(&decode(sample).unwrap()).unwrap();
    assert_eq!(encode(&driver.device.save()), sample);
}

#[test]
fn a_disk_of_version_1_is_loaded() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(1 << 20).unwrap();
    let block = || {
        let disk = FileDisk::open(file.path(), false).unwrap();
        Block::new(Arc::new(disk), &BlockConfig::default()).unwrap()
    };
    let (today, _) = sample(block(), |driver| {
        driver.ram.write(BUFFERS, &4_u128.to_le_bytes()).unwrap();
        driver.push(0, &[out(BUFFERS, 16), inward(BUFFERS + 64, 1)]);
        driver.notify(0);
    });
    let sample = include_bytes!("../../../../../tests/data/saved/virtio-block.bin");
    hold(sample, &today, block());
}

#[test]
fn randomness_of_version_1_is_loaded() {
    let (today, _) = sample(Rng, |driver| {
        driver.push(0, &[inward(BUFFERS, 64)]);
        driver.notify(0);
    });
    let sample = include_bytes!("../../../../../tests/data/saved/virtio-rng.bin");
    hold(sample, &today, Rng);
}

#[test]
fn a_balloon_of_version_1_is_loaded() {
    let (today, device) = sample(Balloon::default(), |driver| {
        driver.device.set_target(1 << 20);
        driver.set(0x104, 7);
        driver
            .ram
            .write(BUFFERS, &[4, 0, 1, 2, 3, 4, 5, 6, 7, 8])
            .unwrap();
        driver.push(2, &[out(BUFFERS, 10)]);
        driver.notify(2);
    });
    assert_eq!(device.statistics().free, Some(0x0807_0605_0403_0201));
    let sample = include_bytes!("../../../../../tests/data/saved/virtio-balloon.bin");
    hold(sample, &today, Balloon::default());
}
