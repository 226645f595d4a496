//! A source of randomness and its driver.

use super::super::core::Workers;
use super::super::driver::*;
use super::*;

fn driver() -> Driver<Rng> {
    let mut driver = Driver::new(Rng, Workers::Caller);
    driver.start(driver.offered(), 16);
    driver
}

#[test]
fn all_buffers_are_filled() {
    let mut driver = driver();
    driver.push(0, &[inward(BUFFERS, 30), inward(BUFFERS + 100, 34)]);
    driver.notify(0);
    assert_eq!(driver.used(0), Some((0, 64)));
    let (one, other) = (driver.bytes(BUFFERS, 31), driver.bytes(BUFFERS + 100, 35));
    // That one of them is all zeros has a chance of 2^-240.
    assert!(one[..30].iter().any(|&byte| byte != 0) && other[..34].iter().any(|&byte| byte != 0));
    assert_eq!((one[30], other[34]), (0, 0), "beyond the buffers");
    assert_ne!(one[..30], other[..30]);
}

#[test]
fn a_large_request_is_filled_in_part() {
    let mut driver = driver();
    driver.push(0, &[inward(BUFFERS, 1 << 20), inward(BUFFERS, 1 << 20)]);
    driver.notify(0);
    assert_eq!(driver.used(0), Some((0, 64 << 10)));
    assert_eq!(driver.bytes(BUFFERS + (64 << 10), 4096), [0; 4096]);
    assert_ne!(driver.bytes(BUFFERS + (60 << 10), 4096), [0; 4096]);
}

#[test]
fn a_request_without_room_stops_the_device() {
    let mut driver = driver();
    driver.push(0, &[out(BUFFERS, 64)]);
    driver.notify(0);
    assert_eq!(driver.status(), DRIVER_OK | NEEDS_RESET);
    assert_eq!(driver.used(0), None);
}

#[test]
fn its_configuration_space_is_empty() {
    let driver = driver();
    for register in [0x100, 0x104, 0xffc] {
        assert_eq!(driver.get(register), 0);
        driver.set(register, 1);
    }
}
