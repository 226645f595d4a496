//! What can be asked of a VM while it is moved: every operation in every phase, and what has to come
//! of it. The table is the design's, not the code's.

use dwcp::{DWCPError, SnapshotOptions};
use serde_json::json;
use support::raw::{Raw, kind};

use super::*;

/// Something to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Start,
    Stop,
    StopByForce,
    Pause,
    Resume,
    Reset,
    Destroy,
    Update,
    Snapshot,
    Restore,
    Migrate,
    MigrateWithTheSameKey,
    MigrateWithAnotherKey,
    Get,
    List,
    Metrics,
    GuestReport,
    ReadConsole,
    WriteConsole,
    Verify,
    Cancel,
    Resolve,
}

/// What has to come of it.
#[derive(Clone, Copy, Debug)]
enum Must {
    /// It is done, and the VM is, or is said to be, in this state.
    Be(VMState),
    /// `invalid_operation`, with this word; nothing changes.
    Refuse(&'static str),
    /// The migration is cancelled, then it is done.
    Cancel(VMState),
    /// The migration is cancelled, and then it is refused, with this word.
    CancelAndRefuse(VMState, &'static str),
    /// It ends when the guest runs again; if that is elsewhere, it says so.
    Wait,
    /// It is the migration that there is.
    Join,
    /// The VM is not in the list any more.
    NotList,
    /// An error of the node that is asked now.
    Forward(&'static str),
}

/// Where a migration is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The target was asked, and its answer has not come.
    Preparing,
    /// Pages are on their way.
    Copying,
    /// The guest is paused, nothing is granted.
    Pausing,
    /// The target may take it, and has not heard so.
    Granted,
    /// The same, and the target is not heard of any more.
    Unresolved,
    /// It runs on the target.
    Moved,
}

use Must::{Be, CancelAndRefuse, Forward, Join, NotList, Refuse, Wait};
use Phase::{Copying, Granted, Moved, Pausing, Preparing, Unresolved};
use VMState::{Migrating, Paused, Running, Stopped, Unknown};

/// At the source. "Before the grant, stop, destroy and reset cancel first; a second migrate is refused
/// and names the first (the same idempotency key joins it); granted or unresolved: only get and resolve.
/// Moved away: the source forwards." Else what is legal in the state `migrating`.
fn at_the_source(op: Op, phase: Phase) -> Must {
    let before = matches!(phase, Preparing | Copying | Pausing);
    // What only looks at it.
    let look = |state| match phase {
        Granted | Unresolved => Refuse("VM"),
        Moved => Be(Running),
        _ => Be(state),
    };
    let state = match phase {
        Unresolved => Unknown,
        Moved => Running,
        _ => Migrating,
    };
    match op {
        Op::Get => Be(state),
        Op::List if phase == Moved => NotList,
        Op::List => Be(state),
        Op::Metrics | Op::GuestReport | Op::ReadConsole | Op::WriteConsole => look(Migrating),
        Op::Verify if phase == Pausing => Wait,
        Op::Verify => look(Migrating),
        Op::MigrateWithTheSameKey => Join,
        Op::Migrate | Op::MigrateWithAnotherKey if phase == Moved => Refuse("already"),
        // The test looks for the first one's id.
        Op::Migrate | Op::MigrateWithAnotherKey => Refuse("migrat"),
        Op::Cancel if before => Must::Cancel(Running),
        Op::Cancel => Refuse(if phase == Moved { "over" } else { "too late" }),
        Op::Resolve if before => Refuse("cancel_migration"),
        Op::Resolve => Be(state),
        Op::Stop | Op::StopByForce if before => Must::Cancel(Stopped),
        Op::Reset if before => Must::Cancel(Running),
        Op::Destroy if before => CancelAndRefuse(Running, "stop it first"),
        Op::Stop | Op::StopByForce if phase == Moved => Be(Stopped),
        Op::Pause if phase == Moved => Be(Paused),
        Op::Reset | Op::Update | Op::Snapshot if phase == Moved => Be(Running),
        // The snapshot stayed where it was taken.
        Op::Restore if phase == Moved => Forward("snapshot"),
        Op::Destroy if phase == Moved => Refuse("stop it first"),
        Op::Start | Op::Resume if phase == Moved => Refuse("running"),
        _ if before => Refuse("migrating"),
        _ => Refuse("VM"),
    }
}

const ALL: [Op; 22] = [
    Op::Get,
    Op::List,
    Op::Metrics,
    Op::GuestReport,
    Op::ReadConsole,
    Op::WriteConsole,
    Op::Start,
    Op::Pause,
    Op::Resume,
    Op::Update,
    Op::Snapshot,
    Op::Restore,
    Op::Migrate,
    Op::MigrateWithTheSameKey,
    Op::MigrateWithAnotherKey,
    Op::Resolve,
    Op::Stop,
    Op::StopByForce,
    Op::Reset,
    Op::Destroy,
    Op::Cancel,
    Op::Verify,
];

/// Two nodes, and a proxy between them.
struct Pair {
    here: Node,
    there: Node,
    link: Arc<FaultProxy>,
    _dirs: [tempfile::TempDir; 2],
}

impl Pair {
    async fn new(backend: Backend) -> Pair {
        let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let start = async |name: &str, dir: &Path| {
            let node = builder(name, backend).data_dir(dir).listen("127.0.0.1:0");
            node.start().await.unwrap()
        };
        let here = start("node-01", dirs[0].path()).await;
        let there = start("node-02", dirs[1].path()).await;
        let link = link(&here, &there);
        Pair {
            here,
            there,
            link,
            _dirs: dirs,
        }
    }

    /// A VM in that phase of a migration from the first node to the second.
    async fn hold(&self, phase: Phase) -> Case<'_> {
        let vms = self.here.client().vm();
        let vm = started(&vms, small("held")).await;
        let snapshot = SnapshotOptions::default();
        let snapshot = vms.snapshot(&vm.id, "before", snapshot).await.unwrap();
        self.link.take_seen();
        let (way, at) = match phase {
            Preparing => (Way::BToA, "prepared"),
            Copying => (Way::AToB, "pages"),
            Pausing => (Way::BToA, "ready"),
            Granted | Unresolved => (Way::AToB, "commit"),
            Moved => (Way::AToB, "done"),
        };
        let held = match phase {
            Unresolved => {
                cut_at(&self.link, way, at);
                None
            }
            Moved => None,
            _ => Some(Hold::at(&self.link, way, at)),
        };
        let mut case = Case {
            pair: self,
            id: vm.id,
            migration: String::new(),
            snapshot: snapshot.id,
            held: held.into(),
        };
        case.migration = case.migrate("first").await.unwrap();
        let link = Arc::clone(&self.link);
        tokio::task::spawn_blocking(move || link.wait_for(at, LONG))
            .await
            .unwrap();
        match phase {
            Unresolved => drop(wait_for(&vms, &case.id, Unknown).await),
            Moved => {
                let status = ended(&vms, &case.migration).await;
                assert_eq!(status.state, MigrationState::Completed, "{status:?}");
            }
            _ => {}
        }
        case
    }
}

/// A VM that is held in a phase of its migration.
struct Case<'a> {
    pair: &'a Pair,
    id: String,
    migration: String,
    snapshot: String,
    held: Mutex<Option<Hold>>,
}

impl Case<'_> {
    fn vms(&self) -> VMClient {
        self.pair.here.client().vm()
    }

    /// Asks the first node for a migration with an idempotency key, by frames: in process none is taken.
    async fn migrate(&self, key: &str) -> Result<String, DWCPError> {
        let payload = json!({
            "operation": "migrate", "vm_id": self.id, "target_node": "node-02", "key": format!("{key} of {}", self.id),
            "options": {
                "encrypt_transport": false, "verify_checksum": false, "max_downtime": 30_000,
                "same_host": "never",
            },
        });
        let at = address(&self.pair.here).to_string();
        let asked = tokio::task::spawn_blocking(move || {
            let mut raw = Raw::extended(&at, None);
            raw.call(kind::MIGRATION, &payload)
        });
        let answer = asked.await.unwrap();
        match answer.json() {
            ref refused if answer.kind == kind::ERROR => {
                let text = refused["message"].as_str().unwrap().to_owned();
                assert_eq!(refused["name"], "invalid_operation", "{refused}");
                Err(DWCPError::InvalidOperation(text))
            }
            status => Ok(status["id"].as_str().unwrap().to_owned()),
        }
    }

    /// Asks, and says in which state the VM was answered to be, where the answer has one.
    async fn ask(&self, vms: &VMClient, op: Op) -> Result<Option<VMState>, DWCPError> {
        let id = &self.id;
        match op {
            Op::Start => vms.start(id).await?,
            Op::Stop => vms.stop(id, false).await?,
            Op::StopByForce => vms.stop(id, true).await?,
            Op::Pause => vms.pause(id).await?,
            Op::Resume => vms.resume(id).await?,
            Op::Reset => vms.reset(id).await?,
            Op::Destroy => vms.destroy(id).await?,
            Op::Update => drop(
                vms.update(id, Some([("a".into(), "b".into())].into()), None)
                    .await?,
            ),
            Op::Snapshot => drop(
                vms.snapshot(id, "meanwhile", SnapshotOptions::default())
                    .await?,
            ),
            Op::Restore => vms.restore_snapshot(id, &self.snapshot).await?,
            Op::Migrate => drop(vms.migrate(id, "node-02", plain()).await?),
            Op::MigrateWithTheSameKey => {
                assert_eq!(self.migrate("first").await?, self.migration);
            }
            Op::MigrateWithAnotherKey => drop(self.migrate("second").await?),
            Op::Get => return Ok(Some(vms.get(id).await?.state)),
            Op::List => {
                let all = vms.list(()).await?;
                let found = all.iter().find(|vm| vm.id == *id);
                return Ok(found.map(|vm| vm.state));
            }
            Op::Metrics => {
                vms.get_metrics(id, Duration::from_secs(1)).await?;
            }
            Op::GuestReport => drop(vms.guest_report(id).await?),
            Op::ReadConsole => {
                let mut console = vms.console(id).await?;
                match tokio::time::timeout(LONG, console.next()).await.unwrap() {
                    Some(printed) => assert!(!printed.is_empty()),
                    None => return Err(console.error().unwrap()),
                }
            }
            Op::WriteConsole => {
                // Who only types does not wait for what is printed.
                let console = vms.console(id).await?;
                console.write(b"x").await?;
            }
            Op::Verify => whole_or(vms, id).await?,
            Op::Cancel => drop(vms.cancel_migration(&self.migration).await?),
            Op::Resolve => drop(vms.resolve_migration(&self.migration, false).await?),
        }
        Ok(None)
    }

    /// Lets it go on.
    fn release(&self) {
        drop(self.held.lock().unwrap().take());
        self.pair.link.heal();
    }

    /// Ends it, wherever it is.
    async fn over(self) {
        self.release();
        let vms = self.vms();
        ended(&vms, &self.migration).await;
        let nobody_arrives = || async {
            let there = self.pair.there.client().vm().list(()).await.unwrap();
            there.iter().all(|vm| vm.state != Migrating)
        };
        until("the end of the arrival", nobody_arrives).await;
        if vms.get(&self.id).await.unwrap().state != Stopped {
            vms.stop(&self.id, true).await.unwrap();
        }
        vms.destroy(&self.id).await.unwrap();
    }
}

async fn whole_or(vms: &VMClient, id: &str) -> Result<(), DWCPError> {
    let report = vms.verify(id).await?;
    assert!(report.verified && report.faults == 0, "{report:?}");
    Ok(())
}

/// Asks, and holds what comes against what must. Whether the migration goes on as it did.
async fn check(case: &Case<'_>, phase: Phase, op: Op) -> bool {
    let (vms, must) = (case.vms(), at_the_source(op, phase));
    let told = format!("{op:?} while {phase:?} must {must:?}");
    let before = vms
        .get_migration_status(&case.migration)
        .await
        .unwrap()
        .state;
    if matches!(must, Wait) {
        let (own, id) = (vms.clone(), case.id.clone());
        let asked = tokio::spawn(async move { whole_or(&own, &id).await });
        let mut asked = asked;
        let waits = tokio::time::timeout(Duration::from_millis(100), &mut asked).await;
        assert!(waits.is_err(), "{told}: {waits:?}");
        case.release();
        let ended = tokio::time::timeout(LONG, asked).await.unwrap().unwrap();
        match ended {
            Ok(()) => {}
            Err(DWCPError::Unavailable(text)) => assert_says(&text, &["moved to the node node-02"]),
            Err(error) => panic!("{told}: {error}"),
        }
        return false;
    }
    let came = tokio::time::timeout(LONG, case.ask(&vms, op)).await;
    let came = came.unwrap_or_else(|_| panic!("{told}: nothing came"));
    let refused = |came: Result<Option<VMState>, DWCPError>, word: &str| match came {
        Err(DWCPError::InvalidOperation(text)) => {
            assert!(text.contains(word), "{told}: {text}");
            if matches!(op, Op::Migrate | Op::MigrateWithAnotherKey) && phase != Moved {
                assert!(text.contains(&case.migration), "{told}: {text}");
            }
        }
        other => panic!("{told}: {other:?}"),
    };
    let mut goes_on = true;
    match must {
        Be(state) => {
            let said = came.unwrap_or_else(|error| panic!("{told}: {error}"));
            let now = vms.get(&case.id).await.unwrap().state;
            // One that is resolved may have come to its end by now; nothing else may have.
            assert_eq!((said.unwrap_or(now), now), (state, state), "{told}");
        }
        NotList => assert_eq!(came.unwrap(), None, "{told}"),
        Join => assert_eq!(came.unwrap(), None, "{told}"),
        Refuse(word) => refused(came, word),
        Forward(word) => {
            let error = came.unwrap_err().to_string();
            assert!(error.contains(word), "{told}: {error}");
        }
        Must::Cancel(state) | CancelAndRefuse(state, _) => {
            match must {
                CancelAndRefuse(_, word) => refused(came, word),
                _ => assert_eq!(came.unwrap(), None, "{told}"),
            }
            let status = vms.get_migration_status(&case.migration).await.unwrap();
            assert_eq!(
                status.state,
                MigrationState::Cancelled,
                "{told}: {status:?}"
            );
            let now = vms.get(&case.id).await.unwrap();
            assert_eq!((now.state, now.node.as_str()), (state, "node-01"), "{told}");
            if state == Running {
                whole(&vms, &case.id).await;
            }
            goes_on = false;
        }
        Wait => unreachable!("above"),
    }
    if goes_on {
        let now = vms
            .get_migration_status(&case.migration)
            .await
            .unwrap()
            .state;
        assert_eq!(now, before, "{told}: the migration");
    }
    goes_on
}

/// Whether the operation may leave the VM in another state than it was in.
fn disturbs(must: Must, op: Op) -> bool {
    matches!(must, Must::Cancel(_) | CancelAndRefuse(..) | Wait)
        || matches!(must, Be(Stopped | Paused))
        || (op == Op::Reset && matches!(must, Be(_)))
}

async fn every_operation(test: &str, phases: &[Phase]) {
    for backend in backends(test).await {
        let pair = Pair::new(backend).await;
        for phase in phases {
            // All that changes nothing, of one VM; then what does, each of one of its own.
            let calm = pair.hold(*phase).await;
            let mut others = Vec::new();
            for op in ALL {
                if disturbs(at_the_source(op, *phase), op) {
                    others.push(op);
                } else {
                    assert!(check(&calm, *phase, op).await);
                }
            }
            calm.over().await;
            for op in others {
                let case = pair.hold(*phase).await;
                check(&case, *phase, op).await;
                case.over().await;
            }
        }
        // After all that a VM moves as on the first day.
        let vm = started(&pair.here.client().vm(), small("last")).await;
        moved(&pair.here.client().vm(), &vm.id, &pair.there).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_the_grant_every_operation_does_what_it_should() {
    every_operation("before_the_grant", &[Preparing, Copying, Pausing]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_the_grant_only_looking_and_resolving_is_legal() {
    every_operation("after_the_grant", &[Granted, Unresolved]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vm_that_moved_away_is_answered_for_by_where_it_is() {
    every_operation("a_vm_that_moved_away", &[Moved]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_arriving_vm_refuses_everything_until_it_is_taken() {
    for backend in backends("an_arriving_vm").await {
        let pair = Pair::new(backend).await;
        for phase in [Preparing, Copying, Pausing, Granted] {
            let case = pair.hold(phase).await;
            let vms = pair.there.client().vm();
            for op in ALL {
                let told = format!("{op:?} of a VM that arrives, {phase:?} at its source");
                match op {
                    // They are about a migration, of which only its source is asked; a key is too.
                    Op::Cancel
                    | Op::Resolve
                    | Op::MigrateWithTheSameKey
                    | Op::MigrateWithAnotherKey => {}
                    Op::Get | Op::List => {
                        assert_eq!(case.ask(&vms, op).await.unwrap(), Some(Migrating), "{told}");
                    }
                    _ => match case.ask(&vms, op).await {
                        Err(DWCPError::InvalidOperation(text)) => {
                            assert!(text.contains("arriving"), "{told}: {text}");
                        }
                        other => panic!("{told}: {other:?}"),
                    },
                }
            }
            // Nothing of that changed anything: it arrives.
            case.release();
            let status = ended(&case.vms(), &case.migration).await;
            assert_eq!(
                status.state,
                MigrationState::Completed,
                "{phase:?}: {status:?}"
            );
            whole(&vms, &case.id).await;
            case.over().await;
        }
    }
}
