//! Migrations between nodes that encrypt, and ask who is there.

use std::sync::Arc;

use super::super::Dial;
use super::super::faults::Faults;
use super::support::*;
use crate::model::{MigrationOptions, MigrationState, VM};
use crate::transport::tests::Authority;

fn small() -> VM {
    let rates = [
        ("dirty-pages-per-second", "20000"),
        ("beat-hz", "1000"),
        ("fill", "8388608"),
    ];
    vm(32 << 20, 2, &rates)
}

/// A migration that reaches the destination by `dial` does not come about, and the guest runs on.
/// The reason.
fn refused(vm: &VM, a: &Arc<Host>, b: &Arc<Host>, dial: Dial) -> String {
    let status = begin_by(dial, vm, a, b, options(), Faults::default()).end();
    b.settle();
    assert_eq!(status.state, MigrationState::Failed, "{status:?}");
    assert!(!b.has_machine());
    let machine = a.machine();
    let report = verify(&machine);
    assert_eq!(report.faults, 0, "{report:?}");
    wait("a beat", || {
        machine.pulse().unwrap().report("").beats > report.beats
    });
    status.error.unwrap()
}

#[test]
fn it_arrives_whole_over_tls() {
    for back_end in back_ends() {
        let back_end = back_end.encrypted();
        let vm = small();
        let (mut here, mut there) = (Host::new(&back_end), Host::new(&back_end));
        assert!(here.dial.tls.is_some());
        here.boot(&vm);
        wait_filled(&here.machine(), &vm);
        for verify_checksum in [false, true] {
            let options = MigrationOptions {
                verify_checksum,
                parallel: 4,
                ..options()
            };
            let status = migrate(&vm, &here, &there, options);
            assert_eq!(status.state, MigrationState::Completed, "{status:?}");
            assert!(status.bytes_sent > 8 << 20, "{status:?}");
            assert_eq!(verify(&there.machine()).faults, 0);
            std::mem::swap(&mut here, &mut there);
        }
        assert_eq!(*here.refused.lock().unwrap(), Vec::<String>::new());
    }
}

#[test]
fn a_peer_without_tls_is_refused() {
    let vm = small();
    let plain = Host::new(&sim());
    plain.boot(&vm);
    let secure = Host::new(&sim().encrypted());
    let dial = Dial {
        tls: None,
        ..secure.dial.clone()
    };
    refused(&vm, &plain, &secure, dial);
    let told = secure.refused.lock().unwrap().join("\n");
    assert!(
        told.contains("does not speak TLS, which this port requires"),
        "{told}"
    );
    // The other way round.
    let other = Host::new(&sim());
    let dial = Dial {
        tls: secure.dial.tls.clone(),
        ..other.dial.clone()
    };
    let error = refused(&vm, &plain, &other, dial);
    assert!(error.contains("does not speak TLS on this port"), "{error}");
}

#[test]
fn an_authority_that_is_not_the_right_one_is_refused_by_name() {
    let vm = small();
    let back_end = sim().encrypted();
    let (a, b) = (Host::new(&back_end), Host::new(&back_end));
    a.boot(&vm);
    let dial = Dial {
        tls: Some(Arc::new(Authority::new("somebody else").client())),
        ..b.dial.clone()
    };
    let error = refused(&vm, &a, &b, dial);
    assert!(
        error.contains("signed by an authority that is not among"),
        "{error}"
    );
    let told = b.refused.lock().unwrap().join("\n");
    assert!(
        told.contains("does not accept this side's certificate"),
        "{told}"
    );
    // It is not the connection that is wrong.
    let status = migrate(&vm, &a, &b, options());
    assert_eq!(status.state, MigrationState::Completed, "{status:?}");
}

#[test]
fn a_key_opens_every_connection() {
    let vm = small();
    let tls = || Some(AUTHORITY.sign(&["127.0.0.1"]).server(None));
    let (a, b) = (Host::new(&sim()), Host::with(&sim(), tls(), Some("secret")));
    a.boot(&vm);
    let key = |credential: Option<&str>| Dial {
        credential: credential.map(str::to_owned),
        ..b.dial.clone()
    };
    assert!(!format!("{:?}", b.dial).contains("secret"));
    let wrong = refused(&vm, &a, &b, key(Some("wrong")));
    assert!(wrong.contains("refused this node: key unknown"), "{wrong}");
    refused(&vm, &a, &b, key(None));
    let told = b.refused.lock().unwrap().join("\n");
    assert!(told.contains("did not say who it is"), "{told}");
    let status = migrate(&vm, &a, &b, options());
    assert_eq!(status.state, MigrationState::Completed, "{status:?}");
    assert_eq!(verify(&b.machine()).faults, 0);
}
