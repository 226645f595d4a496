//! The rules for each field of what users send. Every error starts with the field's name.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::net::IpAddr;
use std::time::Duration;

use super::config::VMConfig;
use super::filters::Filters;
use super::limits::*;
use super::names::quote;
use super::network::{NetworkConfig, NetworkInterface, NetworkMode};
use super::placement::Affinity;
use crate::error::{DWCPError, Result};

/// The error for a field.
pub(crate) fn wrong<T>(field: &str, why: impl Display) -> Result<T> {
    Err(DWCPError::Config(format!("{field}: {why}")))
}

/// Checks a whole config.
pub(crate) fn config(config: &VMConfig) -> Result<()> {
    name("name", &config.name)?;
    memory("memory", config.memory)?;
    if config.cpus == 0 || config.cpus > CPUS_MAX {
        return wrong(
            "cpus",
            format_args!("must be 1 to {CPUS_MAX}, not {}", config.cpus),
        );
    }
    at_most("disk", config.disk, DISK_MAX)?;
    if config.image.is_empty() {
        return wrong("image", "must not be empty");
    }
    text("image", &config.image, IMAGE_LEN_MAX)?;
    network(&config.network)?;
    if config.cloud_init.len() > CLOUD_INIT_LEN_MAX {
        return too_long("cloud_init", CLOUD_INIT_LEN_MAX);
    }
    labels("labels", &config.labels)?;
    annotations("annotations", &config.annotations)?;
    if let Some(rules) = &config.affinity {
        affinity(rules)?;
    }
    text("gpu_type", &config.gpu_type, TEXT_LEN_MAX)?;
    texts("host_devices", &config.host_devices, HOST_DEVICES_MAX)?;
    numbers("cpu_pinning", &config.cpu_pinning, HOST_CPUS_MAX)?;
    numbers("numa_nodes", &config.numa_nodes, NUMA_NODES_MAX)?;
    at_most(
        "io_threads",
        u64::from(config.io_threads),
        u64::from(IO_THREADS_MAX),
    )?;
    if config.memory_max != 0 {
        memory("memory_max", config.memory_max)?;
        if config.memory_max < config.memory {
            return wrong(
                "memory_max",
                format_args!("must not be less than memory, {}", config.memory),
            );
        }
    }
    at_most(
        "cpu_quota",
        u64::from(config.cpu_quota),
        100 * u64::from(config.cpus),
    )
}

/// Checks the name of a VM, node or snapshot.
pub(crate) fn name(field: &str, name: &str) -> Result<()> {
    if name.is_empty() {
        return wrong(field, "must not be empty");
    }
    if name.len() > NAME_LEN_MAX {
        return too_long(field, NAME_LEN_MAX);
    }
    if !name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    {
        return wrong(
            field,
            format_args!("may have A–Z a–z 0–9 . _ - only, not {}", quote(name)),
        );
    }
    Ok(())
}

/// Checks an id. Whether it names anything is another question.
pub(crate) fn id(field: &str, id: &str) -> Result<()> {
    if id.is_empty() {
        return wrong(field, "must not be empty");
    }
    text(field, id, ID_LEN_MAX)
}

/// Checks who types on a console.
pub(crate) fn writer(writer: Option<&str>) -> Result<()> {
    writer.map_or(Ok(()), |writer| text("writer", writer, WRITER_LEN_MAX))
}

/// Checks an idempotency key.
pub(crate) fn key(key: &str) -> Result<()> {
    if key.is_empty() {
        return wrong("key", "must not be empty");
    }
    text("key", key, KEY_LEN_MAX)
}

/// Checks the filters of a list or watch.
pub(crate) fn filters(filters: &Filters) -> Result<()> {
    count("filters", filters.iter().count(), FILTERS_MAX)?;
    filters.iter().try_for_each(|(key, value)| {
        text("filters", key, LABEL_KEY_LEN_MAX)?;
        // The value may be that of a label, or an image.
        text("filters", value, LABEL_VALUE_LEN_MAX.max(IMAGE_LEN_MAX))
    })
}

/// Checks the time between two figures of a stream.
pub(crate) fn interval(interval: Duration) -> Result<()> {
    if interval < Duration::from_millis(METRICS_INTERVAL_MIN_MS) {
        return wrong(
            "interval",
            format_args!("must be at least {METRICS_INTERVAL_MIN_MS}ms"),
        );
    }
    Ok(())
}

/// Checks labels by themselves, as an update brings them.
pub(crate) fn labels(field: &str, labels: &BTreeMap<String, String>) -> Result<()> {
    pairs(field, labels, LABEL_VALUE_LEN_MAX)?;
    match labels
        .iter()
        .find(|(_, value)| value.chars().any(char::is_control))
    {
        Some((key, _)) => wrong(
            &format!("{field}.{key}"),
            "must not have control characters",
        ),
        None => Ok(()),
    }
}

/// Checks annotations by themselves. Their values may have several lines.
pub(crate) fn annotations(field: &str, annotations: &BTreeMap<String, String>) -> Result<()> {
    pairs(field, annotations, ANNOTATION_VALUE_LEN_MAX)
}

fn pairs(field: &str, pairs: &BTreeMap<String, String>, value_max: usize) -> Result<()> {
    if pairs.len() > LABELS_MAX {
        return wrong(
            field,
            format_args!(
                "must have at most {LABELS_MAX} entries, not {}",
                pairs.len()
            ),
        );
    }
    for (key, value) in pairs {
        if key.is_empty() {
            return wrong(field, "a key must not be empty");
        }
        text(field, key, LABEL_KEY_LEN_MAX)?;
        if value.len() > value_max {
            return too_long(&format!("{field}.{key}"), value_max);
        }
    }
    let bytes: usize = pairs
        .iter()
        .map(|(key, value)| key.len() + value.len())
        .sum();
    if bytes > LABELS_BYTES_MAX {
        return wrong(
            field,
            format_args!("must have at most {LABELS_BYTES_MAX} bytes in all, not {bytes}"),
        );
    }
    Ok(())
}

fn memory(field: &str, bytes: u64) -> Result<()> {
    if bytes < MEMORY_MIN {
        return wrong(
            field,
            format_args!("must be at least {MEMORY_MIN} bytes (16 MiB), not {bytes}"),
        );
    }
    if bytes > MEMORY_MAX {
        return wrong(
            field,
            format_args!("must be at most {MEMORY_MAX} bytes (16 TiB), not {bytes}"),
        );
    }
    if !bytes.is_multiple_of(MEMORY_STEP) {
        return wrong(
            field,
            format_args!("must be a multiple of {MEMORY_STEP} bytes, not {bytes}"),
        );
    }
    Ok(())
}

fn network(network: &NetworkConfig) -> Result<()> {
    let field = "network.interfaces";
    count(field, network.interfaces.len(), INTERFACES_MAX)?;
    if network.mode == NetworkMode::None && !network.interfaces.is_empty() {
        return wrong(field, "must be empty where network.mode is none");
    }
    for (index, nic) in network.interfaces.iter().enumerate() {
        interface(&format!("{field}[{index}]"), nic)?;
    }
    let mut seen = BTreeSet::new();
    for nic in network.interfaces.iter().filter(|nic| !nic.name.is_empty()) {
        if !seen.insert(&nic.name) {
            return wrong(
                field,
                format_args!("name {} is given twice", quote(&nic.name)),
            );
        }
    }
    count("network.dns", network.dns.len(), DNS_MAX)?;
    for address in &network.dns {
        self::address("network.dns", address)?;
    }
    if !network.gateway.is_empty() {
        address("network.gateway", &network.gateway)?;
    }
    if network.mtu != 0 && !(MTU_MIN..=MTU_MAX).contains(&network.mtu) {
        return wrong(
            "network.mtu",
            format_args!("must be {MTU_MIN} to {MTU_MAX}, not {}", network.mtu),
        );
    }
    Ok(())
}

fn interface(field: &str, nic: &NetworkInterface) -> Result<()> {
    let sub = |name: &str| format!("{field}.{name}");
    text(&sub("name"), &nic.name, INTERFACE_NAME_LEN_MAX)?;
    text(&sub("bridge"), &nic.bridge, INTERFACE_NAME_LEN_MAX)?;
    text(&sub("type"), &nic.interface_type, NAME_LEN_MAX)?;
    if !nic.mac.is_empty() && !is_unicast_mac(&nic.mac) {
        return wrong(
            &sub("mac"),
            format_args!(
                "must be a unicast address like 52:54:00:12:34:56, not {}",
                quote(&nic.mac)
            ),
        );
    }
    at_most(&sub("vlan"), u64::from(nic.vlan), u64::from(VLAN_MAX))?;
    if !nic.ip_address.is_empty() {
        address(&sub("ip_address"), &nic.ip_address)?;
    }
    if !nic.netmask.is_empty() && !is_netmask(&nic.netmask) {
        return wrong(
            &sub("netmask"),
            format_args!(
                "must be like 255.255.255.0 or 24, not {}",
                quote(&nic.netmask)
            ),
        );
    }
    Ok(())
}

fn address(field: &str, address: &str) -> Result<()> {
    match address.parse::<IpAddr>() {
        Ok(_) => Ok(()),
        Err(_) => wrong(
            field,
            format_args!("must be an IP address, not {}", quote(address)),
        ),
    }
}

/// Six bytes in hex; the lowest bit of the first marks a group (IEEE 802).
fn is_unicast_mac(text: &str) -> bool {
    let bytes: Vec<&str> = text.split([':', '-']).collect();
    bytes.len() == 6
        && bytes
            .iter()
            .all(|byte| byte.len() == 2 && byte.bytes().all(|b| b.is_ascii_hexdigit()))
        && u8::from_str_radix(bytes[0], 16).is_ok_and(|first| first & 1 == 0)
}

/// A prefix length, or an address whose ones all come before its zeros.
fn is_netmask(text: &str) -> bool {
    if let Ok(prefix) = text.parse::<u8>() {
        return prefix <= 128;
    }
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V4(mask)) => mask.to_bits().leading_ones() == mask.to_bits().count_ones(),
        Ok(IpAddr::V6(mask)) => mask.to_bits().leading_ones() == mask.to_bits().count_ones(),
        Err(_) => false,
    }
}

fn affinity(rules: &Affinity) -> Result<()> {
    labels("affinity.node_selector", &rules.node_selector)?;
    for (field, list) in [
        ("affinity.required_nodes", &rules.required_nodes),
        ("affinity.preferred_nodes", &rules.preferred_nodes),
        ("affinity.anti_affinity_vms", &rules.anti_affinity_vms),
        ("affinity.require_same_host", &rules.require_same_host),
    ] {
        texts(field, list, AFFINITY_LIST_MAX)?;
    }
    Ok(())
}

/// Host CPU or NUMA node numbers, each below `end`.
fn numbers(field: &str, list: &[u32], end: u32) -> Result<()> {
    count(field, list.len(), end as usize)?;
    match list.iter().find(|number| **number >= end) {
        Some(number) => wrong(field, format_args!("must be below {end}, not {number}")),
        None => Ok(()),
    }
}

fn texts(field: &str, list: &[String], max: usize) -> Result<()> {
    count(field, list.len(), max)?;
    for entry in list {
        if entry.is_empty() {
            return wrong(field, "an entry must not be empty");
        }
        text(field, entry, TEXT_LEN_MAX)?;
    }
    Ok(())
}

/// One line of text.
pub(crate) fn text(field: &str, text: &str, max: usize) -> Result<()> {
    if text.len() > max {
        return too_long(field, max);
    }
    if text.chars().any(char::is_control) {
        return wrong(
            field,
            format_args!("must not have control characters, not {}", quote(text)),
        );
    }
    Ok(())
}

fn count(field: &str, len: usize, max: usize) -> Result<()> {
    if len > max {
        return wrong(
            field,
            format_args!("must have at most {max} entries, not {len}"),
        );
    }
    Ok(())
}

pub(crate) fn at_most(field: &str, value: u64, max: u64) -> Result<()> {
    if value > max {
        return wrong(field, format_args!("must be at most {max}, not {value}"));
    }
    Ok(())
}

pub(crate) fn too_long<T>(field: &str, max: usize) -> Result<T> {
    wrong(field, format_args!("must have at most {max} bytes"))
}
