//! Every field of a config, with a value that is never allowed, and with one that this node cannot do.

use serde_json::{Value, json};

use super::support::raw::{Raw, kind};
use super::{NOBODY, OPERATOR, Target, is_error};

/// What is set in a config that is right otherwise, and what the error says.
fn never_allowed() -> Vec<(Value, &'static str)> {
    let nic = |fields: Value| json!({"network": {"mode": "bridge", "interfaces": [fields]}});
    let many: serde_json::Map<_, _> = (0..65).map(|n| (n.to_string(), json!(""))).collect();
    vec![
        (json!({"name": ""}), "name"),
        (json!({"name": "a b"}), "name"),
        (json!({"name": "x".repeat(129)}), "name"),
        (json!({"name": 7}), "name"),
        (json!({"memory": 1}), "memory"),
        (json!({"memory": (32 << 20) + 1}), "memory"),
        (json!({"memory": 1_u64 << 45}), "memory"),
        (json!({"memory": -1}), "memory"),
        (json!({"memory": "1G"}), "memory"),
        (json!({"cpus": 129}), "cpus"),
        (json!({"cpus": 1.5}), "cpus"),
        (json!({"disk": 1_u64 << 50}), "disk"),
        (json!({"image": "a\u{0}b"}), "image"),
        (json!({"image": "x".repeat(4097)}), "image"),
        (json!({"network": {"mode": "tunnel"}}), "mode"),
        (
            json!({"network": {"mode": "none", "interfaces": [{}]}}),
            "network.interfaces",
        ),
        (json!({"network": {"dns": ["nowhere"]}}), "network.dns"),
        (
            json!({"network": {"gateway": "nowhere"}}),
            "network.gateway",
        ),
        (json!({"network": {"mtu": 67}}), "network.mtu"),
        (json!({"network": {"colour": 1}}), "colour"),
        (nic(json!({"name": "x".repeat(16)})), "name"),
        (nic(json!({"bridge": "x".repeat(16)})), "bridge"),
        (nic(json!({"mac": "01:00:00:00:00:01"})), "mac"),
        (nic(json!({"vlan": 4095})), "vlan"),
        (nic(json!({"ip_address": "10.0.0"})), "ip_address"),
        (nic(json!({"netmask": "255.0.255.0"})), "netmask"),
        (nic(json!({"bandwidth": -1})), "bandwidth"),
        (nic(json!({"type": "a\nb"})), "type"),
        (
            json!({"cloud_init": "x".repeat((64 << 10) + 1)}),
            "cloud_init",
        ),
        (json!({"labels": {"": "x"}}), "labels"),
        (json!({"labels": {"a": "b\nc"}}), "labels"),
        (json!({"labels": {"a": 1}}), "labels"),
        (json!({"labels": many}), "labels"),
        (
            json!({"annotations": {"a": "x".repeat((64 << 10) + 1)}}),
            "annotations",
        ),
        (
            json!({"annotations": {"dwcp.pulse/colour": "red"}}),
            "dwcp.pulse/colour",
        ),
        (
            json!({"annotations": {"dwcp.pulse/beat-hz": "0"}}),
            "dwcp.pulse/beat-hz",
        ),
        (json!({"priority": "high"}), "priority"),
        (
            json!({"affinity": {"required_nodes": [""]}}),
            "affinity.required_nodes",
        ),
        (
            json!({"affinity": {"node_selector": {"": "x"}}}),
            "affinity.node_selector",
        ),
        (
            json!({"affinity": {"preferred_nodes": [""]}}),
            "affinity.preferred_nodes",
        ),
        (
            json!({"affinity": {"anti_affinity_vms": [""]}}),
            "affinity.anti_affinity_vms",
        ),
        (
            json!({"affinity": {"require_same_host": [""]}}),
            "affinity.require_same_host",
        ),
        (json!({"enable_gpu": "yes"}), "enable_gpu"),
        (json!({"gpu_type": "x".repeat(1025)}), "gpu_type"),
        (json!({"enable_sr_iov": 1}), "enable_sr_iov"),
        (json!({"enable_tpm": 1}), "enable_tpm"),
        (json!({"enable_secure_boot": 1}), "enable_secure_boot"),
        (json!({"host_devices": [""]}), "host_devices"),
        (json!({"cpu_pinning": [8192]}), "cpu_pinning"),
        // The last that Linux can number, which no host has.
        (json!({"cpu_pinning": [8191]}), "cpu_pinning"),
        (json!({"numa_nodes": [1024]}), "numa_nodes"),
        (json!({"huge_pages": 1}), "huge_pages"),
        (json!({"io_threads": 129}), "io_threads"),
        (json!({"memory_max": 16 << 20}), "memory_max"),
        (json!({"cpu_quota": 101}), "cpu_quota"),
        (json!({"disk_iops_limit": -1}), "disk_iops_limit"),
        (json!({"network_bandwidth": -1}), "network_bandwidth"),
        (json!({"colour": "red"}), "colour"),
        // Both spellings of one field.
        (json!({"cpu_quota": 50, "cpuQuota": 50}), "cpu_quota"),
    ]
}

fn not_here() -> Vec<(Value, &'static str)> {
    vec![
        (json!({"disk": 4096}), "disk"),
        (json!({"network": {"mode": "bridge"}}), "network.mode"),
        (
            json!({"network": {"interfaces": [{}]}}),
            "network.interfaces",
        ),
        (json!({"network": {"dns": ["10.0.0.1"]}}), "network.dns"),
        (
            json!({"network": {"gateway": "10.0.0.1"}}),
            "network.gateway",
        ),
        (json!({"network": {"mtu": 1500}}), "network.mtu"),
        (json!({"cloud_init": "#cloud-config"}), "cloud_init"),
        (json!({"priority": 1}), "priority"),
        (json!({"affinity": {"required_nodes": ["a"]}}), "affinity"),
        (json!({"enable_gpu": true}), "enable_gpu"),
        (json!({"gpu_type": "A100"}), "gpu_type"),
        (json!({"enableSRIOV": true}), "enable_sr_iov"),
        (json!({"enable_tpm": true}), "enable_tpm"),
        (json!({"enable_secure_boot": true}), "enable_secure_boot"),
        (json!({"host_devices": ["0000:00:02.0"]}), "host_devices"),
        (json!({"numa_nodes": [0]}), "numa_nodes"),
        (json!({"io_threads": 1}), "io_threads"),
        (json!({"memory_max": 64 << 20}), "memory_max"),
        (json!({"disk_iops_limit": 1}), "disk_iops_limit"),
        (json!({"network_bandwidth": 1}), "network_bandwidth"),
    ]
}

/// What a node may have, and this one has not.
fn not_found() -> Vec<(Value, &'static str)> {
    vec![(json!({"image": "no/such-image"}), "image")]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invalid_field_is_named_and_makes_no_vm() {
    let target = Target::start().await;
    let before = target.state().await;
    let mut profiles = [
        Raw::base(&target.address, Some(OPERATOR)),
        Raw::extended(&target.address, Some(OPERATOR)),
    ];
    let rows = never_allowed().into_iter().map(|row| (row, 0x1008));
    let rows = rows.chain(not_here().into_iter().map(|row| (row, 0x1009)));
    let rows = rows.chain(not_found().into_iter().map(|row| (row, 0x100b)));
    for ((fields, named), code) in rows {
        let mut config = json!({"name": "never", "memory": 32 << 20, "cpus": 1});
        for (key, value) in fields.as_object().unwrap() {
            config[key] = value.clone();
        }
        let request = json!({"operation": "create", "request": {"config": config}});
        for raw in &mut profiles {
            let answer = raw.call(kind::VM, &request);
            assert_eq!(answer.error(), Some(code), "{named}: {}", answer.text());
            is_error(&answer, code, named);
        }
    }
    assert_eq!(target.state().await, before);
}

/// The fields of other requests.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invalid_field_of_any_request_is_named() {
    let target = Target::start().await;
    let before = target.state().await;
    let mut raw = Raw::extended(&target.address, Some(OPERATOR));
    let id = &target.running.id;
    let options = |options: Value| json!({"vm_id": id, "target_node": "b", "options": options});
    let long = "x".repeat(129);
    let rows = [
        (
            kind::VM,
            json!({"operation": "get", "vm_id": ""}),
            0x1008,
            "vm_id",
        ),
        (
            kind::VM,
            json!({"operation": "get", "vm_id": long}),
            0x1008,
            "vm_id",
        ),
        (
            kind::VM,
            json!({"operation": "get", "vm_id": 7}),
            0x1001,
            "vm_id",
        ),
        (kind::VM, json!({"operation": "get"}), 0x1001, "vm_id"),
        (
            kind::VM,
            json!({"operation": "get", "vm_id": id, "mood": 1}),
            0x1001,
            "mood",
        ),
        (
            kind::VM,
            json!({"operation": "fly", "vm_id": id}),
            0x1001,
            "operation",
        ),
        (
            kind::VM,
            json!({"operation": 99, "vm_id": id}),
            0x1001,
            "operation",
        ),
        (
            kind::VM,
            json!({"operation": true, "vm_id": id}),
            0x1001,
            "operation",
        ),
        (kind::VM, json!({}), 0x1001, "operation"),
        (
            kind::VM,
            json!({"operation": "stop", "vm_id": id, "force": "yes"}),
            0x1001,
            "force",
        ),
        (
            kind::VM,
            json!({"operation": "stop", "vm_id": id, "timeout": "soon"}),
            0x1001,
            "timeout",
        ),
        (
            kind::VM,
            json!({"operation": "list", "filters": 1}),
            0x1001,
            "filters",
        ),
        (
            kind::VM,
            json!({"operation": "list", "limit": 1001}),
            0x1008,
            "limit",
        ),
        (
            kind::VM,
            json!({"operation": "list", "page": "x"}),
            0x1008,
            "page",
        ),
        (
            kind::VM,
            json!({"operation": "update", "vm_id": id, "labels": {"": ""}}),
            0x1008,
            "labels",
        ),
        (
            kind::VM,
            json!({"operation": "console_write", "vm_id": id, "data": "%"}),
            0x1001,
            "data",
        ),
        (
            kind::VM,
            json!({"operation": "start", "vm_id": id, "deadline_ms": -1}),
            0x1001,
            "deadline_ms",
        ),
        (
            kind::METRICS,
            json!({"vm_id": id, "duration": "5 apples"}),
            0x1001,
            "duration",
        ),
        (
            kind::MIGRATION,
            json!({"vm_id": id, "target_node": ""}),
            0x1008,
            "target_node",
        ),
        (
            kind::MIGRATION,
            options(json!({"parallel": 65})),
            0x1008,
            "parallel",
        ),
        (
            kind::MIGRATION,
            options(json!({"max_downtime": 3_600_001})),
            0x1008,
            "max_downtime",
        ),
        (
            kind::MIGRATION,
            options(json!({"live": "yes"})),
            0x1008,
            "live",
        ),
        (
            kind::MIGRATION,
            options(json!({"colour": 1})),
            0x1008,
            "colour",
        ),
        (
            kind::SNAPSHOT,
            json!({"vm_id": id, "name": "a b"}),
            0x1008,
            "name",
        ),
        (
            kind::SNAPSHOT,
            json!({"vm_id": id, "name": "a", "options": {"description": "x".repeat(1025)}}),
            0x1008,
            "description",
        ),
        (
            kind::STREAM,
            json!({"operation": "stream_metrics", "vm_id": id, "interval": "1ns", "credit": 1}),
            0x1008,
            "interval",
        ),
        (
            kind::STREAM,
            json!({"operation": "watch", "credit": -1}),
            0x1001,
            "credit",
        ),
        (
            kind::STREAM,
            json!({"operation": "watch", "since": "x", "credit": 1}),
            0x1001,
            "since",
        ),
    ];
    for (kind, payload, code, named) in rows {
        let answer = raw.call(kind, &payload);
        assert_eq!(answer.error(), Some(code), "{payload}: {}", answer.text());
        is_error(&answer, code, named);
    }
    // A request in which a field stands twice could be read in two ways.
    raw.send(&super::support::raw::frame(
        kind::VM,
        "twice",
        format!(r#"{{"operation":"destroy","vm_id":"{NOBODY}","vm_id":"{id}"}}"#).as_bytes(),
    ));
    is_error(&raw.next(), 0x1001, "vm_id");
    assert_eq!(target.state().await, before);
}
