//! Tests of reading, writing and checking configs.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::VMConfig;
use crate::error::{DWCPError, Result};
use crate::model::limits;
use crate::model::network::{NetworkConfig, NetworkInterface, NetworkMode};
use crate::model::node::NodeCapabilities;
use crate::model::placement::Affinity;

fn read(value: Value) -> Result<VMConfig> {
    VMConfig::from_value(value)
}

fn message(value: Value) -> String {
    match read(value) {
        Err(DWCPError::Config(message)) => message,
        other => panic!("expected an invalid config, got {other:?}"),
    }
}

/// A config in which every field differs from its default.
fn full() -> VMConfig {
    VMConfig {
        name: "web-1".into(),
        memory: 4 << 30,
        cpus: 4,
        disk: 40 << 30,
        image: "ubuntu-22.04".into(),
        network: NetworkConfig {
            mode: NetworkMode::Bridge,
            interfaces: vec![NetworkInterface {
                name: "eth0".into(),
                interface_type: "virtio".into(),
                mac: "52:54:00:12:34:56".into(),
                bridge: "br0".into(),
                vlan: 7,
                ip_address: "192.168.1.100".into(),
                netmask: "255.255.255.0".into(),
                bandwidth: 1_000_000,
            }],
            dns: vec!["8.8.8.8".into(), "2001:4860:4860::8888".into()],
            gateway: "192.168.1.1".into(),
            mtu: 1500,
        },
        cloud_init: "#cloud-config\n".into(),
        labels: [("env".into(), "production".into())].into(),
        annotations: [("note".into(), "two\nlines".into())].into(),
        priority: -5,
        affinity: Some(Affinity {
            node_selector: [("zone".into(), "a".into())].into(),
            required_nodes: vec!["node-01".into()],
            preferred_nodes: vec!["node-02".into()],
            anti_affinity_vms: vec!["x".into()],
            require_same_host: vec!["y".into()],
        }),
        enable_gpu: true,
        gpu_type: "v100".into(),
        enable_sr_iov: true,
        enable_tpm: true,
        enable_secure_boot: true,
        host_devices: vec!["0000:01:00.0".into()],
        cpu_pinning: vec![0, 1, 2, 3],
        numa_nodes: vec![0],
        huge_pages: true,
        io_threads: 4,
        memory_max: 8 << 30,
        cpu_quota: 90,
        disk_iops_limit: 10_000,
        network_bandwidth: 10 << 30,
    }
}

#[test]
fn the_fields_are_those_of_the_protocol() {
    let value = serde_json::to_value(full()).unwrap();
    let keys = |value: &Value| {
        let mut keys: Vec<_> = value.as_object().unwrap().keys().cloned().collect();
        keys.sort();
        keys.join(" ")
    };
    assert_eq!(
        keys(&value),
        "affinity annotations cloud_init cpu_pinning cpu_quota cpus disk disk_iops_limit \
         enable_gpu enable_secure_boot enable_sr_iov enable_tpm gpu_type host_devices huge_pages \
         image io_threads labels memory memory_max name network network_bandwidth numa_nodes \
         priority"
    );
    assert_eq!(keys(&value["network"]), "dns gateway interfaces mode mtu");
    assert_eq!(
        keys(&value["network"]["interfaces"][0]),
        "bandwidth bridge ip_address mac name netmask type vlan"
    );
    assert_eq!(
        keys(&value["affinity"]),
        "anti_affinity_vms node_selector preferred_nodes require_same_host required_nodes"
    );
}

#[test]
fn every_field_survives_json_in_snake_case() {
    assert_eq!(read(serde_json::to_value(full()).unwrap()).unwrap(), full());
}

#[test]
fn every_field_is_read_in_camel_case() {
    let camel = json!({
        "name": "web-1", "memory": 4_u64 << 30, "cpus": 4, "disk": 40_u64 << 30,
        "image": "ubuntu-22.04",
        "network": {
            "mode": "bridge",
            "interfaces": [{
                "name": "eth0", "type": "virtio", "mac": "52:54:00:12:34:56", "bridge": "br0",
                "vlan": 7, "ipAddress": "192.168.1.100", "netmask": "255.255.255.0",
                "bandwidth": 1_000_000
            }],
            "dns": ["8.8.8.8", "2001:4860:4860::8888"], "gateway": "192.168.1.1", "mtu": 1500
        },
        "cloudInit": "#cloud-config\n",
        "labels": {"env": "production"}, "annotations": {"note": "two\nlines"}, "priority": -5,
        "affinity": {
            "nodeSelector": {"zone": "a"}, "requiredNodes": ["node-01"],
            "preferredNodes": ["node-02"], "antiAffinityVMs": ["x"], "requireSameHost": ["y"]
        },
        "enableGPU": true, "gpuType": "v100", "enableSRIOV": true, "enableTPM": true,
        "enableSecureBoot": true, "hostDevices": ["0000:01:00.0"], "cpuPinning": [0, 1, 2, 3],
        "numaNodes": [0], "hugePages": true, "ioThreads": 4, "memoryMax": 8_u64 << 30,
        "cpuQuota": 90, "diskIOPSLimit": 10_000, "networkBandwidth": 10_u64 << 30
    });
    assert_eq!(read(camel.clone()).unwrap(), full());

    // The copies made for old clients have the same spellings, beside those in snake case.
    let both = full().to_value_in_both_cases().unwrap();
    assert!(has(&both, &camel), "{both}");
    assert!(has(&both, &serde_json::to_value(full()).unwrap()), "{both}");
}

/// Whether `value` has all that `part` has.
fn has(value: &Value, part: &Value) -> bool {
    match (value, part) {
        (Value::Object(value), Value::Object(part)) => part
            .iter()
            .all(|(key, part)| value.get(key).is_some_and(|value| has(value, part))),
        (Value::Array(value), Value::Array(part)) => {
            value.len() == part.len()
                && value.iter().zip(part).all(|(value, part)| has(value, part))
        }
        _ => value == part,
    }
}

#[test]
fn null_zero_and_absence_are_the_default() {
    let default = VMConfig {
        name: "a".into(),
        ..VMConfig::default()
    };
    assert_eq!(read(json!({"name": "a"})).unwrap(), default);

    let mut nulls = serde_json::to_value(full()).unwrap();
    for (key, value) in nulls.as_object_mut().unwrap() {
        *value = if key == "name" {
            json!("a")
        } else {
            Value::Null
        };
    }
    assert_eq!(read(nulls).unwrap(), default);

    let parts = json!({
        "name": "a",
        "network": {"mode": null, "interfaces": null, "dns": null, "gateway": null, "mtu": null},
    });
    assert_eq!(read(parts).unwrap(), default);

    // What a Go program sends that set the name only.
    let zeros = json!({
        "name": "a", "memory": 0, "cpus": 0, "disk": 0, "image": "", "network": {"mode": ""},
        "labels": null, "priority": 0, "enable_gpu": false, "gpu_type": "", "cpu_pinning": null,
        "memory_max": 0, "cpu_quota": 0,
    });
    assert_eq!(read(zeros).unwrap(), default);
    assert_eq!(
        (default.memory, default.cpus, default.disk),
        (2 << 30, 2, 0)
    );
    assert_eq!(default.image, "dwcp/pulse");
    assert_eq!(
        default.unsupported_requests(&NodeCapabilities::default()),
        None
    );
}

#[test]
fn network_is_always_an_object() {
    let value = serde_json::to_value(VMConfig::default()).unwrap();
    assert_eq!(
        value["network"],
        json!({"mode": "", "interfaces": [], "dns": [], "gateway": "", "mtu": 0})
    );
}

#[test]
fn errors_of_reading_start_with_the_field() {
    for (value, expected) in [
        (
            json!({"name": "a", "colour": "red"}),
            "colour: unknown field",
        ),
        (
            json!({"name": "a", "network": {"modus": "tap"}}),
            "network.modus: unknown field",
        ),
        (
            json!({"name": "a", "affinity": {"requiredNode": []}}),
            "affinity.requiredNode: unknown field",
        ),
        (
            json!({"name": "a", "memory": "lots"}),
            "memory: invalid type: string \"lots\", expected u64",
        ),
        (
            json!({"name": "a", "cpus": -1}),
            "cpus: invalid value: integer `-1`, expected u32",
        ),
        (
            json!({"name": "a", "cpus": 4_294_967_297_u64}),
            "cpus: invalid value: integer `4294967297`, expected u32",
        ),
        (
            json!({"name": "a", "network": {"interfaces": [{"vlan": "x"}]}}),
            "network.interfaces.vlan: invalid type: string \"x\", expected u32",
        ),
        (
            json!({"name": "a", "network": {"mode": "bridged"}}),
            "network.mode: unknown network mode \"bridged\", must be one of none, bridge, tap, nat",
        ),
        (
            json!({"name": "a", "labels": {"n": 1}}),
            "labels: invalid type: integer `1`, expected a string",
        ),
        (
            json!({"name": "a", "enable_gpu": true, "enableGPU": true}),
            "enable_gpu: given twice",
        ),
        (
            json!({"name": "a", "network": []}),
            "network: invalid type: sequence, expected a network object",
        ),
        (json!({}), "name: must not be empty"),
        (json!({"name": null}), "name: must not be empty"),
        (
            json!([]),
            "invalid type: sequence, expected a VM config object",
        ),
    ] {
        assert_eq!(message(value.clone()), expected, "{value}");
    }
}

#[test]
fn errors_do_not_repeat_what_a_sender_made_long() {
    let long = "x".repeat(1 << 20);
    for value in [
        json!({"name": long}),
        json!({"name": "a", &long: 1}),
        json!({"name": "a", "image": long}),
        json!({"name": "a", "network": {"mode": long}}),
        json!({"name": "a", "network": {"gateway": long}}),
        json!({"name": "a", "labels": {&long: ""}}),
        json!({"name": "a", "labels": {"k": long}}),
    ] {
        let message = message(value);
        assert!(message.len() < 300, "{} bytes", message.len());
    }
}

/// A change to a good config.
type Change = fn(&mut VMConfig);

#[test]
fn every_limit_is_kept() {
    let bad: &[(&str, Change)] = &[
        ("name", |c| c.name.clear()),
        ("name", |c| c.name = "a".repeat(129)),
        ("name", |c| c.name = "with space".into()),
        ("name", |c| c.name = "grün".into()),
        ("name", |c| c.name = "a/b".into()),
        ("memory", |c| c.memory = 0),
        ("memory", |c| c.memory = limits::MEMORY_MIN - 4096),
        ("memory", |c| c.memory += 1),
        ("memory", |c| c.memory = limits::MEMORY_MAX + 4096),
        ("cpus", |c| c.cpus = 0),
        ("cpus", |c| c.cpus = 129),
        ("disk", |c| c.disk = limits::DISK_MAX + 1),
        ("image", |c| c.image.clear()),
        ("image", |c| c.image = "a\0b".into()),
        ("image", |c| c.image = "a".repeat(limits::IMAGE_LEN_MAX + 1)),
        ("network.interfaces", |c| {
            c.network.interfaces = vec![NetworkInterface::default(); limits::INTERFACES_MAX + 1];
        }),
        ("network.interfaces", |c| c.network.mode = NetworkMode::None),
        ("network.interfaces", |c| {
            let again = c.network.interfaces[0].clone();
            c.network.interfaces.push(again);
        }),
        ("network.interfaces[0].name", |c| {
            c.network.interfaces[0].name = "x".repeat(16)
        }),
        ("network.interfaces[0].bridge", |c| {
            c.network.interfaces[0].bridge = "x".repeat(16)
        }),
        ("network.interfaces[0].type", |c| {
            c.network.interfaces[0].interface_type = "x\n".into();
        }),
        ("network.interfaces[0].mac", |c| {
            c.network.interfaces[0].mac = "52:54:00:12:34".into()
        }),
        ("network.interfaces[0].mac", |c| {
            c.network.interfaces[0].mac = "01:00:5e:00:00:01".into();
        }),
        ("network.interfaces[0].vlan", |c| {
            c.network.interfaces[0].vlan = 4095
        }),
        ("network.interfaces[0].ip_address", |c| {
            c.network.interfaces[0].ip_address = "300.0.0.1".into();
        }),
        ("network.interfaces[0].netmask", |c| {
            c.network.interfaces[0].netmask = "255.0.255.0".into();
        }),
        ("network.interfaces[0].netmask", |c| {
            c.network.interfaces[0].netmask = "129".into()
        }),
        ("network.dns", |c| {
            c.network.dns = vec!["8.8.8.8".into(); limits::DNS_MAX + 1]
        }),
        ("network.dns", |c| {
            c.network.dns = vec!["dns.example".into()]
        }),
        ("network.gateway", |c| c.network.gateway = "router".into()),
        ("network.mtu", |c| c.network.mtu = 67),
        ("network.mtu", |c| c.network.mtu = 65_536),
        ("cloud_init", |c| {
            c.cloud_init = "x".repeat(limits::CLOUD_INIT_LEN_MAX + 1)
        }),
        ("labels", |c| {
            c.labels = (0..=limits::LABELS_MAX)
                .map(|n| (n.to_string(), String::new()))
                .collect();
        }),
        ("labels", |c| {
            c.labels = [(String::new(), String::new())].into()
        }),
        ("labels", |c| {
            c.labels = [("k".repeat(318), String::new())].into()
        }),
        ("labels.k", |c| {
            c.labels = [("k".into(), "v".repeat(1025))].into()
        }),
        ("labels.k", |c| {
            c.labels = [("k".into(), "a\nb".into())].into()
        }),
        ("annotations.k", |c| {
            c.annotations = [("k".into(), "v".repeat(65_537))].into()
        }),
        ("annotations", |c| {
            c.annotations = (0..5)
                .map(|n| (n.to_string(), "v".repeat(60_000)))
                .collect();
        }),
        ("affinity.required_nodes", |c| {
            c.affinity.get_or_insert_default().required_nodes = vec!["n".into(); 129];
        }),
        ("affinity.preferred_nodes", |c| {
            c.affinity.get_or_insert_default().preferred_nodes = vec![String::new()];
        }),
        ("affinity.node_selector.k", |c| {
            c.affinity.get_or_insert_default().node_selector = [("k".into(), "\r".into())].into();
        }),
        ("gpu_type", |c| {
            c.gpu_type = "x".repeat(limits::TEXT_LEN_MAX + 1)
        }),
        ("host_devices", |c| {
            c.host_devices = vec!["d".into(); limits::HOST_DEVICES_MAX + 1]
        }),
        ("cpu_pinning", |c| {
            c.cpu_pinning = vec![limits::HOST_CPUS_MAX]
        }),
        ("cpu_pinning", |c| c.cpu_pinning = vec![0; 8193]),
        ("numa_nodes", |c| {
            c.numa_nodes = vec![limits::NUMA_NODES_MAX]
        }),
        ("io_threads", |c| c.io_threads = limits::IO_THREADS_MAX + 1),
        ("memory_max", |c| c.memory_max = c.memory - 4096),
        ("memory_max", |c| c.memory_max += 1),
        ("cpu_quota", |c| c.cpu_quota = 100 * c.cpus + 1),
    ];
    assert_eq!(full().validate(), Ok(()));
    for (index, (field, change)) in bad.iter().enumerate() {
        let mut config = full();
        change(&mut config);
        let error = config.validate().expect_err(field);
        assert!(
            matches!(error, DWCPError::Config(_)),
            "row {index}: {error:?}"
        );
        assert!(
            error.message().starts_with(&format!("{field}: ")),
            "row {index}: {error}"
        );
    }
}

#[test]
fn the_edges_of_the_limits_are_allowed() {
    let good: &[Change] = &[
        |c| c.name = "AZaz09._-".into(),
        |c| c.name = "a".repeat(128),
        |c| c.memory = limits::MEMORY_MIN,
        |c| {
            c.memory = limits::MEMORY_MAX;
            c.memory_max = 0;
        },
        |c| c.cpus = 128,
        |c| c.cpu_quota = 400,
        |c| c.network.interfaces[0].mac = "52-54-00-AB-CD-EF".into(),
        |c| c.network.interfaces[0].netmask = "24".into(),
        |c| c.network.interfaces[0].netmask = "ffff:ffff::".into(),
        |c| c.network.interfaces[0].vlan = 4094,
        |c| c.network.mtu = 65_535,
        |c| c.annotations = [("k".into(), "v".repeat(65_536))].into(),
        |c| c.memory_max = c.memory,
    ];
    for (index, change) in good.iter().enumerate() {
        let mut config = full();
        change(&mut config);
        assert_eq!(config.validate(), Ok(()), "row {index}");
    }
}

#[test]
fn each_request_needs_its_capability() {
    type Allow = fn(&mut NodeCapabilities);
    // A request for one field, the name of that field, and the capability that allows it.
    let rows: &[(Change, &str, Allow)] = &[
        (|c| c.disk = 1, "disk", |n| n.disk = true),
        (
            |c| c.network.mode = NetworkMode::Nat,
            "network.mode",
            |n| n.network = true,
        ),
        (
            |c| c.network.interfaces = vec![NetworkInterface::default()],
            "network.interfaces",
            |n| n.network = true,
        ),
        (
            |c| c.network.dns = vec!["::1".into()],
            "network.dns",
            |n| n.network = true,
        ),
        (
            |c| c.network.gateway = "::1".into(),
            "network.gateway",
            |n| n.network = true,
        ),
        (
            |c| c.network.mtu = 9000,
            "network.mtu",
            |n| n.network = true,
        ),
        (
            |c| c.cloud_init = "#".into(),
            "cloud_init",
            |n| n.cloud_init = true,
        ),
        (|c| c.priority = 5, "priority", |n| n.priority = true),
        (
            |c| c.affinity.get_or_insert_default().required_nodes = vec!["n".into()],
            "affinity",
            |n| n.affinity = true,
        ),
        (|c| c.enable_gpu = true, "enable_gpu", |n| n.gpu = true),
        (|c| c.gpu_type = "v100".into(), "gpu_type", |n| n.gpu = true),
        (
            |c| c.enable_sr_iov = true,
            "enable_sr_iov",
            |n| n.sr_iov = true,
        ),
        (|c| c.enable_tpm = true, "enable_tpm", |n| n.tpm = true),
        (
            |c| c.enable_secure_boot = true,
            "enable_secure_boot",
            |n| n.secure_boot = true,
        ),
        (
            |c| c.host_devices = vec!["d".into()],
            "host_devices",
            |n| n.host_devices = true,
        ),
        (
            |c| c.cpu_pinning = vec![0],
            "cpu_pinning",
            |n| n.cpu_pinning = true,
        ),
        (
            |c| c.numa_nodes = vec![0],
            "numa_nodes",
            |n| n.numa_nodes = true,
        ),
        (
            |c| c.huge_pages = true,
            "huge_pages",
            |n| n.huge_pages = true,
        ),
        (|c| c.io_threads = 1, "io_threads", |n| n.io_threads = true),
        (
            |c| c.memory_max = 4 << 30,
            "memory_max",
            |n| n.memory_max = true,
        ),
        (|c| c.cpu_quota = 90, "cpu_quota", |n| n.cpu_quota = true),
        (
            |c| c.disk_iops_limit = 1,
            "disk_iops_limit",
            |n| n.disk_iops_limit = true,
        ),
        (
            |c| c.network_bandwidth = 1,
            "network_bandwidth",
            |n| n.network_bandwidth = true,
        ),
    ];
    for (request, field, allow) in rows {
        let mut config = VMConfig {
            name: "a".into(),
            ..VMConfig::default()
        };
        request(&mut config);
        assert_eq!(config.validate(), Ok(()), "{field}");
        let mut node = NodeCapabilities::default();
        assert_eq!(config.unsupported_requests(&node), Some(*field));
        assert_eq!(
            config.check_supported(&node),
            Err(DWCPError::Unsupported(format!(
                "{field}: not available on this node"
            )))
        );
        allow(&mut node);
        assert_eq!(config.unsupported_requests(&node), None, "{field}");
        assert_eq!(config.check_supported(&node), Ok(()), "{field}");
    }
}

#[test]
fn what_asks_for_nothing_needs_nothing() {
    let config = VMConfig {
        name: "a".into(),
        network: NetworkConfig {
            mode: NetworkMode::None,
            ..NetworkConfig::default()
        },
        affinity: Some(Affinity::default()),
        // No growth, and all of both CPUs: neither limits anything.
        memory_max: limits::MEMORY_DEFAULT,
        cpu_quota: 200,
        ..VMConfig::default()
    };
    assert_eq!(config.validate(), Ok(()));
    assert_eq!(
        config.unsupported_requests(&NodeCapabilities::default()),
        None
    );
}

#[test]
fn another_kind_of_interface_is_unsupported_everywhere() {
    let mut config = full();
    config.network.interfaces[0].interface_type = "e1000".into();
    let node = NodeCapabilities {
        network: true,
        ..NodeCapabilities::default()
    };
    let error = config.check_supported(&node).unwrap_err();
    assert!(
        error.message().contains("network.interfaces.type"),
        "{error}"
    );
}

#[test]
fn one_error_names_all_that_is_unsupported() {
    let config = VMConfig::builder()
        .name("a")
        .enable_tpm(true)
        .huge_pages(true)
        .build()
        .unwrap();
    let error = config
        .check_supported(&NodeCapabilities::default())
        .unwrap_err();
    assert_eq!(
        error.message(),
        "enable_tpm, huge_pages: not available on this node"
    );
}

#[test]
fn the_builder_sets_what_its_methods_say() {
    let want = full();
    let nic = want.network.interfaces[0].clone();
    let built = VMConfig::builder()
        .name("web-1")
        .memory(4 << 30)
        .cpus(4)
        .disk(40 << 30)
        .image("ubuntu-22.04")
        .network(NetworkConfig {
            interfaces: vec![],
            ..want.network.clone()
        })
        .network_mode(NetworkMode::Bridge)
        .interface(nic)
        .cloud_init("#cloud-config\n")
        .label("env", "test")
        .labels(vec![("env", "production")])
        .annotation("note", "two\nlines")
        .annotations(std::collections::HashMap::<String, String>::new())
        .priority(-5)
        .affinity(want.affinity.clone().unwrap())
        .enable_gpu(true)
        .gpu_type("v100")
        .enable_sr_iov(true)
        .enable_tpm(true)
        .enable_secure_boot(true)
        .host_devices(["0000:01:00.0"])
        .cpu_pinning(0..4)
        .numa_nodes(vec![0])
        .huge_pages(true)
        .io_threads(4)
        .memory_max(8 << 30)
        .cpu_quota(90)
        .disk_iops_limit(10_000)
        .network_bandwidth(10 << 30)
        .build();
    assert_eq!(built, Ok(want));
}

proptest! {
    #[test]
    fn what_is_valid_survives_json(
        name in "[A-Za-z0-9._-]{1,128}",
        pages in (limits::MEMORY_MIN / 4096)..=(limits::MEMORY_MAX / 4096),
        cpus in 1..=limits::CPUS_MAX,
        disk in 0..=limits::DISK_MAX,
        labels in prop::collection::btree_map("[a-z./]{1,20}", "\\PC{0,20}", 0..8),
        annotations in prop::collection::btree_map("\\PC{1,20}", ".{0,40}", 0..8),
        priority: i32,
        cloud_init in ".{0,100}",
        bandwidth: u64,
        pinning in prop::collection::vec(0..limits::HOST_CPUS_MAX, 0..8),
    ) {
        let config = VMConfig {
            name, memory: pages * 4096, cpus, disk, labels, annotations, priority, cloud_init,
            network_bandwidth: bandwidth, cpu_pinning: pinning, ..full()
        };
        let config = VMConfig { memory_max: 0, cpu_quota: 0, ..config };
        prop_assert_eq!(config.validate(), Ok(()));
        let text = serde_json::to_string(&config).unwrap();
        prop_assert_eq!(&serde_json::from_str::<VMConfig>(&text).unwrap(), &config);
        prop_assert_eq!(VMConfig::from_value(serde_json::from_str(&text).unwrap()), Ok(config));
    }

    #[test]
    fn no_text_makes_reading_panic(key in "[a-zA-Z_]{1,12}|memory|network|affinity", text in ".{0,40}") {
        for value in [json!(text), json!([text]), json!({&text: text}), json!(1.5), json!(-1)] {
            let _ = VMConfig::from_value(json!({"name": "a", &key: value}));
        }
        let _ = serde_json::from_str::<VMConfig>(&text);
    }
}
