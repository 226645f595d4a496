//! Tests of who may do what, when, and of what callers write.

use super::*;
use crate::error::DWCPError;

fn id() -> String {
    "7".to_owned()
}

/// One of every action.
fn every_action() -> Vec<Action> {
    let config = Box::new(VMConfig {
        name: "a".into(),
        ..VMConfig::default()
    });
    let options = MigrationOptions::default();
    let target = || "node-02".to_owned();
    vec![
        Action::Create {
            config,
            key: Some("k".into()),
        },
        Action::Start { vm_id: id() },
        Action::Stop {
            vm_id: id(),
            options: StopOptions::default(),
        },
        Action::Destroy { vm_id: id() },
        Action::Pause { vm_id: id() },
        Action::Resume { vm_id: id() },
        Action::Reset { vm_id: id() },
        Action::Update {
            vm_id: id(),
            labels: None,
            annotations: None,
        },
        Action::Get { vm_id: id() },
        Action::List {
            filters: Filters::new(),
            limit: 0,
            page: None,
        },
        Action::Metrics {
            vm_id: id(),
            window: Duration::from_secs(300),
        },
        Action::GuestReport { vm_id: id() },
        Action::Verify { vm_id: id() },
        Action::Migrate {
            vm_id: id(),
            target_node: target(),
            options: options.clone(),
            key: None,
        },
        Action::MigrationStatus { migration_id: id() },
        Action::CancelMigration { migration_id: id() },
        Action::ListMigrations,
        Action::PlanMigration {
            vm_id: id(),
            target_node: target(),
            options,
        },
        Action::ResolveMigration {
            migration_id: id(),
            force: false,
        },
        Action::ResolveMigration {
            migration_id: id(),
            force: true,
        },
        Action::Snapshot {
            vm_id: id(),
            name: "snap-v1.0".into(),
            options: SnapshotOptions::default(),
            key: None,
        },
        Action::ListSnapshots { vm_id: id() },
        Action::RestoreSnapshot {
            vm_id: id(),
            snapshot_id: id(),
        },
        Action::DeleteSnapshot { snapshot_id: id() },
        Action::ConsoleWrite {
            vm_id: id(),
            data: Bytes::from_static(b"ls\n"),
            writer: None,
        },
        Action::ImportImage {
            path: "/images/mini".into(),
            name: None,
        },
        Action::ListImages,
        Action::RemoveImage {
            name: "mini".into(),
        },
        Action::Health,
        Action::Node,
    ]
}

#[test]
fn roles_contain_each_other_but_for_node() {
    use Role::{Admin, Node, Operator, Viewer};
    let allowed: Vec<(Role, Vec<Role>)> = Role::ALL
        .iter()
        .map(|&role| {
            (
                role,
                Role::ALL
                    .iter()
                    .copied()
                    .filter(|&needed| role.allows(needed))
                    .collect(),
            )
        })
        .collect();
    assert_eq!(
        allowed,
        [
            (Viewer, vec![Viewer]),
            (Operator, vec![Viewer, Operator]),
            (Admin, vec![Viewer, Operator, Admin]),
            (Node, vec![Node]),
        ]
    );
    assert_eq!(Role::default(), Viewer, "the least");
    assert_eq!("admin".parse::<Role>(), Ok(Admin));
}

#[test]
fn who_may_do_what() {
    let of = |role: Role| -> String {
        let actions = every_action();
        let names = actions
            .iter()
            .filter(|action| action.required_role() == role);
        names.map(Action::name).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(
        of(Role::Viewer),
        "get list get_metrics guest_report get_migration_status list_migrations list_snapshots list_images \
         health node"
    );
    assert_eq!(
        of(Role::Operator),
        "create start stop destroy pause resume reset update verify migrate cancel_migration \
         plan_migration resolve_migration snapshot restore_snapshot delete_snapshot console"
    );
    assert_eq!(
        of(Role::Admin),
        "resolve_migration import_image remove_image",
        "resolve with force"
    );
    assert_eq!(
        of(Role::Node),
        "",
        "peers ask for nothing that people ask for"
    );
}

#[test]
fn what_a_viewer_may_changes_nothing() {
    for action in every_action() {
        if action.required_role() == Role::Viewer {
            assert!(action.is_read_only(), "{}", action.name());
        }
    }
    assert!(!Action::Verify { vm_id: id() }.is_read_only());
}

#[test]
fn an_unresolved_vm_can_be_asked_for_but_not_changed() {
    for action in every_action() {
        let legal = action
            .legal_states()
            .is_none_or(|states| states.contains(&VMState::Unknown));
        let about_a_vm = action.vm_id().is_some();
        assert_eq!(
            legal && about_a_vm,
            matches!(action, Action::Get { .. } | Action::ListSnapshots { .. }),
            "{}",
            action.name()
        );
    }
}

#[test]
fn a_stopped_vm_moves_only_offline() {
    let migrate = |offline| Action::Migrate {
        vm_id: id(),
        target_node: "n".into(),
        options: MigrationOptions {
            offline,
            ..Default::default()
        },
        key: None,
    };
    let stopped = |action: Action| action.legal_states().unwrap().contains(&VMState::Stopped);
    assert!(stopped(migrate(true)) && !stopped(migrate(false)));
}

#[test]
fn what_callers_write_is_checked() {
    for action in every_action() {
        assert_eq!(action.validate(), Ok(()), "{}", action.name());
    }
    let long = "x".repeat(200);
    let many: Filters = (0..100).map(|n| (n.to_string(), "x")).collect();
    let window = Duration::from_micros(100);
    let labels = Some([(String::new(), String::new())].into());
    let rows = [
        (
            "vm_id",
            Action::Get {
                vm_id: String::new(),
            }
            .validate(),
        ),
        (
            "vm_id",
            Action::Start {
                vm_id: long.clone(),
            }
            .validate(),
        ),
        (
            "vm_id",
            Action::Start {
                vm_id: "a\nb".into(),
            }
            .validate(),
        ),
        (
            "key",
            Action::Create {
                config: Box::default(),
                key: Some(long.clone()),
            }
            .validate(),
        ),
        (
            "name",
            Action::Create {
                config: Box::default(),
                key: None,
            }
            .validate(),
        ),
        (
            "labels",
            Action::Update {
                vm_id: id(),
                labels,
                annotations: None,
            }
            .validate(),
        ),
        (
            "filters",
            Action::List {
                filters: many.clone(),
                limit: 0,
                page: None,
            }
            .validate(),
        ),
        (
            "filters",
            Action::List {
                filters: Filters::new().with(long.repeat(9), ""),
                limit: 0,
                page: None,
            }
            .validate(),
        ),
        (
            "limit",
            Action::List {
                filters: Filters::new(),
                limit: 1001,
                page: None,
            }
            .validate(),
        ),
        (
            "page",
            Action::List {
                filters: Filters::new(),
                limit: 0,
                page: Some("1".into()),
            }
            .validate(),
        ),
        (
            "migration_id",
            Action::CancelMigration {
                migration_id: long.clone(),
            }
            .validate(),
        ),
        (
            "snapshot_id",
            Action::DeleteSnapshot {
                snapshot_id: long.clone(),
            }
            .validate(),
        ),
        (
            "target_node",
            Action::PlanMigration {
                vm_id: id(),
                target_node: "a b".into(),
                options: MigrationOptions::default(),
            }
            .validate(),
        ),
        (
            "data",
            Action::ConsoleWrite {
                vm_id: id(),
                data: vec![0; 65_537].into(),
                writer: None,
            }
            .validate(),
        ),
        (
            "writer",
            Action::ConsoleWrite {
                vm_id: id(),
                data: Bytes::new(),
                writer: Some("w".repeat(258)),
            }
            .validate(),
        ),
        (
            "interval",
            Subscription::Metrics {
                vm_id: id(),
                interval: window,
            }
            .validate(),
        ),
        (
            "vm_id",
            Subscription::Console {
                vm_id: long.clone(),
                writer: None,
            }
            .validate(),
        ),
        (
            "writer",
            Subscription::Console {
                vm_id: id(),
                writer: Some("w".repeat(258)),
            }
            .validate(),
        ),
        (
            "migration_id",
            Subscription::MigrationProgress { migration_id: long }.validate(),
        ),
        (
            "filters",
            Subscription::Watch {
                vm_id: None,
                filters: many,
                since: None,
                store: None,
            }
            .validate(),
        ),
        (
            "store",
            Subscription::Watch {
                vm_id: None,
                filters: Filters::new(),
                since: Some(1),
                store: Some(String::new()),
            }
            .validate(),
        ),
    ];
    for (index, (field, result)) in rows.into_iter().enumerate() {
        let error = result.expect_err(field);
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
fn subscriptions_say_what_they_are() {
    let watch = Subscription::Watch {
        vm_id: None,
        filters: Filters::new(),
        since: Some(4),
        store: None,
    };
    assert_eq!((watch.name(), watch.vm_id()), ("watch", None));
    assert_eq!(watch.required_role(), Role::Viewer);
    let metrics = Subscription::Metrics {
        vm_id: id(),
        interval: Duration::from_secs(1),
    };
    assert_eq!(
        (metrics.name(), metrics.vm_id()),
        ("stream_metrics", Some("7"))
    );
    assert_eq!(metrics.validate(), Ok(()));
}
