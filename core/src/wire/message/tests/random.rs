//! Requests that chance makes: each is read as it was written, and nothing makes a reader panic.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use serde_json::Value;

use crate::action::{Action, Subscription};
use crate::model::{
    Filters, MigrationOptions, OnTimeout, SameHost, SnapshotOptions, StopOptions, VMConfig,
};
use crate::wire::frame::FrameType;
use crate::wire::message::*;

/// Any text: an id is checked by whoever looks for it.
fn any_text() -> impl Strategy<Value = String> + Clone {
    prop_oneof!["[a-f0-9-]{36}", ".{0,20}"]
}

fn duration() -> impl Strategy<Value = Duration> {
    (any::<u64>(), 0_u32..64, 0_u32..1_000_000_000)
        .prop_map(|(secs, shift, nanos)| Duration::new(secs >> shift, nanos))
}

fn deadline() -> impl Strategy<Value = Option<Duration>> {
    option::of((1..u64::MAX).prop_map(Duration::from_millis))
}

fn filters() -> impl Strategy<Value = Filters> {
    vec((any_text(), any_text()), 0..3).prop_map(Filters::from)
}

fn pairs() -> impl Strategy<Value = BTreeMap<String, String>> {
    btree_map("[a-z./]{1,20}", "[ -~é]{0,20}", 0..3)
}

fn config() -> impl Strategy<Value = Box<VMConfig>> {
    let numbers = (1_u64..1000, 1_u32..=128, any::<i32>(), 0_u64..1 << 40);
    let flags = any::<[bool; 5]>();
    (
        "[A-Za-z0-9._-]{1,20}",
        numbers,
        flags,
        pairs(),
        pairs(),
        vec(0_u32..8192, 0..4),
        ".{0,40}",
    )
        .prop_map(
            |(name, numbers, flags, labels, annotations, cpu_pinning, cloud_init)| {
                let (memory, cpus, priority, bytes) = numbers;
                Box::new(VMConfig {
                    name,
                    memory: memory << 24,
                    cpus,
                    priority,
                    disk: bytes,
                    network_bandwidth: bytes,
                    enable_gpu: flags[0],
                    enable_sr_iov: flags[1],
                    enable_tpm: flags[2],
                    enable_secure_boot: flags[3],
                    huge_pages: flags[4],
                    labels,
                    annotations,
                    cpu_pinning,
                    cloud_init,
                    ..VMConfig::default()
                })
            },
        )
}

fn migration_options() -> impl Strategy<Value = MigrationOptions> {
    let numbers = (0_u64..=3_600_000, any::<u64>(), 0_u32..=64);
    let timeout = option::of((0_u64..600_000_000).prop_map(Duration::from_millis));
    let words = (0..OnTimeout::ALL.len(), 0..SameHost::ALL.len());
    (numbers, any::<[bool; 6]>(), timeout, words).prop_map(|(numbers, flags, timeout, words)| {
        MigrationOptions {
            max_downtime: numbers.0,
            bandwidth: numbers.1,
            parallel: numbers.2,
            live: flags[0],
            compression: flags[1],
            auto_converge: flags[2],
            post_copy: flags[3],
            verify_checksum: flags[4],
            with_disks: flags[5],
            timeout,
            on_timeout: OnTimeout::ALL[words.0],
            same_host: SameHost::ALL[words.1],
            ..MigrationOptions::default()
        }
    })
}

fn snapshot_options() -> impl Strategy<Value = SnapshotOptions> {
    (any::<bool>(), any::<bool>(), ".{0,20}").prop_map(|(include_memory, quiesce, description)| {
        SnapshotOptions {
            include_memory,
            quiesce,
            description,
        }
    })
}

fn action() -> impl Strategy<Value = Action> {
    let id = any_text;
    let key = || option::of(any_text());
    prop_oneof![
        (config(), key()).prop_map(|(config, key)| Action::Create { config, key }),
        (id(), 0..8).prop_map(|(vm_id, which)| match which {
            0 => Action::Start { vm_id },
            1 => Action::Destroy { vm_id },
            2 => Action::Pause { vm_id },
            3 => Action::Resume { vm_id },
            4 => Action::Reset { vm_id },
            5 => Action::Get { vm_id },
            6 => Action::GuestReport { vm_id },
            _ => Action::Verify { vm_id },
        }),
        (id(), 0..4, any::<bool>()).prop_map(|(id, which, force)| match which {
            0 => Action::MigrationStatus { migration_id: id },
            1 => Action::CancelMigration { migration_id: id },
            2 => Action::ResolveMigration {
                migration_id: id,
                force
            },
            _ => Action::DeleteSnapshot { snapshot_id: id },
        }),
        (id(), any::<bool>(), option::of(duration())).prop_map(|(vm_id, force, timeout)| {
            let options = StopOptions { force, timeout };
            Action::Stop { vm_id, options }
        }),
        (id(), option::of(pairs()), option::of(pairs())).prop_map(
            |(vm_id, labels, annotations)| Action::Update {
                vm_id,
                labels,
                annotations
            }
        ),
        (filters(), any::<u32>(), key()).prop_map(|(filters, limit, page)| Action::List {
            filters,
            limit,
            page
        }),
        (id(), duration()).prop_map(|(vm_id, window)| Action::Metrics { vm_id, window }),
        (id(), any_text(), migration_options(), key()).prop_map(
            |(vm_id, target_node, options, key)| Action::Migrate {
                vm_id,
                target_node,
                options,
                key
            }
        ),
        (id(), any_text(), migration_options()).prop_map(|(vm_id, target_node, options)| {
            Action::PlanMigration {
                vm_id,
                target_node,
                options,
            }
        }),
        (id(), any_text(), snapshot_options(), key()).prop_map(|(vm_id, name, options, key)| {
            Action::Snapshot {
                vm_id,
                name,
                options,
                key,
            }
        }),
        (id(), id())
            .prop_map(|(vm_id, snapshot_id)| Action::RestoreSnapshot { vm_id, snapshot_id }),
        id().prop_map(|vm_id| Action::ListSnapshots { vm_id }),
        (id(), vec(any::<u8>(), 0..50), key()).prop_map(|(vm_id, data, writer)| {
            Action::ConsoleWrite {
                vm_id,
                data: Bytes::from(data),
                writer,
            }
        }),
        (any_text(), key()).prop_map(|(path, name)| Action::ImportImage { path, name }),
        any_text().prop_map(|name| Action::RemoveImage { name }),
        Just(Action::ListImages),
        Just(Action::ListMigrations),
        Just(Action::Health),
        Just(Action::Node),
    ]
}

fn subscription() -> impl Strategy<Value = Subscription> {
    let id = any_text;
    prop_oneof![
        (
            option::of(id()),
            filters(),
            option::of(any::<u64>()),
            option::of(id())
        )
            .prop_map(|(vm_id, filters, since, store)| Subscription::Watch {
                vm_id,
                filters,
                since,
                store
            }),
        (id(), duration()).prop_map(|(vm_id, interval)| Subscription::Metrics { vm_id, interval }),
        id().prop_map(|migration_id| Subscription::MigrationProgress { migration_id }),
        (id(), option::of(id()))
            .prop_map(|(vm_id, writer)| Subscription::Console { vm_id, writer }),
    ]
}

fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        4 => (action(), deadline()).prop_map(|(action, deadline)| Request::Call { action, deadline }),
        1 => (subscription(), any::<u32>(), deadline()).prop_map(
            |(subscription, credit, deadline)| Request::Subscribe { subscription, credit, deadline }
        ),
    ]
}

/// JSON that is nearly a request: known names, values of all kinds.
fn nearly_a_request() -> impl Strategy<Value = Value> {
    const NAMES: &str = "operation|vm_id|request|config|filters|force|options|target_node|\
        migration_id|snapshot_id|name|duration|interval|credit|since|store|limit|page|labels|data|\
        key|deadline_ms|epoch|memory|network|success|code|message|type|count|next|vms|state";
    const WORDS: &str = "create|start|list|get|restore|watch|console_write|migrate|attach|5m|1s|\
        running|2023-11-14T22:13:20Z|[a-z=]{0,8}";
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (0_u64..30).prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        WORDS.prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(Value::from),
            vec((NAMES, inner), 0..6).prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_request_is_read_as_it_was_written(request in request()) {
        let (frame_type, payload) = request.encode().unwrap();
        let read = Request::decode(frame_type, &payload, Profile::Extended);
        prop_assert_eq!(read, Ok(request), "{}", String::from_utf8_lossy(&payload));
    }

    #[test]
    fn a_request_without_a_frame_is_read_by_its_method(request in request()) {
        let (_, payload) = match request.clone() {
            Request::Call { action, .. } => Request::Call { action, deadline: None },
            Request::Subscribe { subscription, .. } => {
                Request::Subscribe { subscription, credit: 0, deadline: None }
            }
            other => other,
        }
        .encode()
        .unwrap();
        let mut fields: Value = serde_json::from_slice(&payload).unwrap();
        let object = fields.as_object_mut().unwrap();
        object.remove("operation");
        object.remove("credit");
        let fields = fields.to_string();
        match request {
            Request::Call { action, .. } => {
                let read = Action::from_json(action.name(), fields.as_bytes());
                prop_assert_eq!(read, Ok(action), "{}", fields);
            }
            Request::Subscribe { subscription, .. } => {
                let read = Subscription::from_json(subscription.name(), fields.as_bytes());
                prop_assert_eq!(read, Ok(subscription), "{}", fields);
            }
            other => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn a_request_that_is_cut_is_refused(request in request(), part in 0.0..1.0) {
        let (frame_type, payload) = request.encode().unwrap();
        #[allow(clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let cut = (payload.len() as f64 * part) as usize;
        // Health and config say all by their type, so nothing is a request there.
        prop_assume!(cut > 0);
        let read = Request::decode(frame_type, &payload[..cut], Profile::Extended);
        prop_assert!(read.is_err(), "{read:?}");
    }

    #[test]
    fn a_field_that_is_not_known_is_named(request in request()) {
        let (frame_type, payload) = request.encode().unwrap();
        let mut value: Value = serde_json::from_slice(&payload).unwrap();
        value["colour"] = "red".into();
        let read = Request::decode(frame_type, value.to_string().as_bytes(), Profile::Extended);
        let error = read.expect_err("the field is not known");
        prop_assert_eq!(error.message(), "colour: unknown field");
    }

    #[test]
    fn nearly_requests_make_nothing_panic(choice: u8, value in nearly_a_request()) {
        let mut data = vec![choice];
        data.extend_from_slice(value.to_string().as_bytes());
        fuzz_messages(&data);
    }

    #[test]
    fn no_bytes_make_anything_panic(data in vec(any::<u8>(), 0..60)) {
        fuzz_messages(&data);
    }
}

#[test]
fn messages_between_nodes_are_handed_on() {
    for payload in [
        r#"{"from":"u","session":"s","epoch":7,"operation":"prepare","vm_id":"7"}"#,
        r#"{"operation":"attach","migration_id":"m","token":"t","channel":0}"#,
        r#"{"operation":"whereabouts","vms":["a"]}"#,
        r#"{"operation":"probe","payload":"{}"}"#,
    ] {
        for profile in [Profile::Base, Profile::Extended] {
            let read = Request::decode(FrameType::Migration, payload.as_bytes(), profile);
            assert_eq!(read, Ok(Request::Peer));
        }
        let read = Request::decode(FrameType::Vm, payload.as_bytes(), Profile::Extended);
        assert!(read.is_err(), "{read:?}");
    }
    assert!(Request::Peer.encode().is_err());
}

/// One of each kind: what answers it is read as what it is.
#[test]
fn each_request_has_its_kind_of_answer() {
    let vm_id = String::new;
    let list = |limit| Action::List {
        filters: Filters::new(),
        limit,
        page: None,
    };
    for (action, reply) in [
        (Action::Get { vm_id: vm_id() }, Reply::VM),
        (Action::Start { vm_id: vm_id() }, Reply::Done),
        (list(0), Reply::VMs),
        (list(1), Reply::Page),
        (Action::Verify { vm_id: vm_id() }, Reply::Guest),
        (Action::ListMigrations, Reply::Migrations),
        (Action::ListSnapshots { vm_id: vm_id() }, Reply::Snapshots),
        (Action::ListImages, Reply::Images),
        (Action::RemoveImage { name: vm_id() }, Reply::Done),
        (Action::Health, Reply::Health),
        (Action::Node, Reply::Node),
    ] {
        assert_eq!(Reply::of(&action), reply, "{}", action.name());
    }
    let console = Subscription::Console {
        vm_id: vm_id(),
        writer: None,
    };
    assert_eq!(ItemKind::of(&console), ItemKind::Console);
}

#[test]
fn clients_that_count_milliseconds_get_camel_case() {
    let create = Action::Create {
        config: Box::default(),
        key: None,
    };
    let base = |create, camel_case| Style::Base { create, camel_case };
    assert_eq!(Style::base(&create, 1_700_000_000_123), base(true, true));
    assert_eq!(Style::base(&create, 1_700_000_000), base(true, false));
    assert_eq!(Style::base(&Action::Health, 0), base(false, false));
}
