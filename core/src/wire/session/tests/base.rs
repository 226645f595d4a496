//! What deployed clients are served.

use super::*;

const GET: &str = r#"{"operation":20,"vm_id":"vm-1"}"#;
const START: &str = r#"{"operation":17,"vm_id":"vm-1"}"#;
const UUID: &str = "00000000-0000-4000-8000-000000000000";

#[test]
fn auth_and_all_else_are_answered_with_one_type() {
    let mut raw = Raw::new(config());
    raw.send(FrameType::Auth, UUID, r#"{"api_key":"k","version":3}"#);
    let Some(ServerEvent::Auth(auth)) = raw.event() else {
        panic!("no AUTH")
    };
    assert_eq!(auth.api_key.as_deref(), Some("k"));
    raw.server.accept(accepted(), raw.now);
    let reply = r#"{"success":true,"message":"welcome"}"#.to_owned();
    assert_eq!(raw.frame(), (FrameType::Vm, UUID.to_owned(), reply));
    raw.send(FrameType::Vm, "2", START);
    assert!(matches!(raw.event(), Some(ServerEvent::Call { .. })));
    raw.server.reply(&id("2"), Ok(&Outcome::Done));
    assert_eq!(raw.frame(), (FrameType::Vm, "2".into(), "{}".into()));
    // Nothing that nobody asked for, however long it is silent.
    raw.pass(Duration::from_secs(86_400));
    raw.server.go_away("maintenance");
    assert!(raw.frames().is_empty());
    assert_eq!(raw.event(), None);
    raw.send(FrameType::Vm, "3", GET);
    let text = "DWCP error 0x100c unavailable: maintenance".to_owned();
    assert_eq!(raw.frame(), (FrameType::Vm, "3".into(), text));
}

#[test]
fn errors_have_the_form_that_is_not_mistaken() {
    let mut raw = Raw::open();
    let error = DWCPError::VMNotFound("vm-1".into());
    raw.send(FrameType::Vm, "1", GET);
    raw.send(FrameType::Vm, "2", START);
    assert_eq!(raw.events().len(), 2);
    raw.server.reply(&id("1"), Err(&error));
    let text = "DWCP error 0x1002 vm_not_found: vm-1".to_owned();
    assert_eq!(raw.frame(), (FrameType::Vm, "1".into(), text));
    raw.server.reply(&id("2"), Err(&error));
    let (frame_type, of, payload) = raw.frame();
    assert_eq!((frame_type, &*of), (FrameType::Vm, "2"));
    let object: serde_json::Value = serde_json::from_str(&payload).unwrap();
    assert_eq!(object["code"], 0x1002);
    // Also where the request cannot be read.
    raw.send(FrameType::Vm, "3", "garbage");
    let (frame_type, of, payload) = raw.frame();
    assert_eq!((frame_type, &*of), (FrameType::Vm, "3"));
    assert!(payload.starts_with("DWCP error 0x1001"), "{payload}");
    assert_eq!(raw.event(), None);
}

#[test]
fn where_auth_is_required_nothing_else_is_served() {
    let mut raw = Raw::new(config());
    raw.send(FrameType::Vm, "1", GET);
    assert!(matches!(raw.closed(), Some(DWCPError::Authentication(_))));
    let (frame_type, of, payload) = raw.frame();
    assert_eq!((frame_type, &*of), (FrameType::Vm, "1"));
    assert!(payload.starts_with("DWCP error 0x1000"), "{payload}");

    for auth in ["garbage", r#"{"version":2}"#, r#"{"encoding":"xml"}"#] {
        let mut raw = Raw::new(config());
        raw.send(FrameType::Auth, "1", auth);
        assert!(matches!(raw.closed(), Some(DWCPError::Protocol(_))));
        let (_, _, payload) = raw.frame();
        assert!(payload.starts_with(r#"{"success":false,"#), "{payload}");
        raw.send(FrameType::Vm, "2", GET);
        assert_eq!(raw.event(), None);
        assert!(raw.frames().is_empty());
    }
}

#[test]
fn a_wrong_key_is_told_in_the_form_of_auth() {
    let mut raw = Raw::new(config());
    raw.send(FrameType::Auth, "1", r#"{"api_key":"k"}"#);
    assert_eq!(raw.events().len(), 1);
    let wrong = DWCPError::Authentication("unknown key".into());
    raw.server.refuse(&wrong, raw.now);
    let (frame_type, _, payload) = raw.frame();
    assert_eq!(frame_type, FrameType::Vm);
    let reply: serde_json::Value = serde_json::from_str(&payload).unwrap();
    assert_eq!(reply["success"], false);
    assert!(reply["message"].as_str().unwrap().contains("unknown key"));
    assert_eq!(raw.closed(), Some(wrong));
    // What the application still says is nobody's.
    raw.server.accept(accepted(), raw.now);
    assert!(raw.frames().is_empty());
    assert_eq!(raw.event(), None);
}

#[test]
fn auth_is_due_in_time_and_in_a_small_frame() {
    let mut raw = Raw::new(config());
    raw.pass(Duration::from_secs(29));
    assert_eq!(raw.event(), None);
    // Byte by byte does not help.
    raw.send_bytes(&[0, 0]);
    raw.pass(Duration::from_secs(1));
    assert!(matches!(raw.closed(), Some(DWCPError::Timeout(_))));
    assert!(raw.frames().is_empty());

    let mut raw = Raw::new(config());
    raw.send_bytes(&encoded(FrameType::Auth, "1", &vec![b' '; 65_536]));
    assert!(matches!(raw.closed(), Some(DWCPError::ResourceLimit(_))));
    assert!(raw.frame().2.starts_with("DWCP error 0x1003"));
}

#[test]
fn what_is_no_frame_gets_an_answer_if_it_has_an_id() {
    let mut unknown = encoded(FrameType::Vm, "1", b"{}");
    unknown[5] = 0x77;
    let extended = encoded(FrameType::Ping, "1", b"");
    for bytes in [unknown, extended] {
        let mut raw = Raw::open();
        raw.send_bytes(&bytes);
        assert!(matches!(raw.closed(), Some(DWCPError::Protocol(_))));
        assert!(raw.frame().2.starts_with("DWCP error 0x1001"));
    }
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0x16, 3, 1, 2, 0, 1]] {
        let mut raw = Raw::open();
        raw.send_bytes(bytes);
        assert!(matches!(raw.closed(), Some(DWCPError::Protocol(_))));
        assert!(raw.frames().is_empty());
    }
}

#[test]
fn too_many_calls_wait_instead_of_being_refused() {
    let mut raw = Raw::open();
    for call in 0..10 {
        raw.send(FrameType::Vm, &call.to_string(), START);
    }
    let mut served = 0;
    loop {
        let calls = raw.events();
        if calls.is_empty() {
            break;
        }
        assert!(calls.len() <= 4);
        assert_eq!(raw.server.wants_input(), calls.len() < 4);
        for call in calls {
            let ServerEvent::Call { id, .. } = call else {
                panic!("{call:?}")
            };
            assert_eq!(*id, *served.to_string());
            raw.server.reply(&id, Ok(&Outcome::Done));
            served += 1;
        }
    }
    assert_eq!(served, 10);
    assert_eq!(raw.frames().len(), 10);
}

#[test]
fn there_are_no_streams() {
    let mut raw = Raw::open();
    let stream = r#"{"operation":"console","vm_id":"v","credit":2}"#;
    raw.send(FrameType::Stream, "1", stream);
    let (frame_type, _, payload) = raw.frame();
    assert_eq!(frame_type, FrameType::Vm);
    assert!(payload.contains("unsupported"), "{payload}");
    assert_eq!(raw.event(), None);
}

#[test]
fn an_answer_longer_than_a_frame_is_an_error() {
    let mut raw = Raw::new(ServerConfig {
        auth_required: false,
        max_frame: 2000,
        ..config()
    });
    raw.send(FrameType::Vm, "1", r#"{"operation":20,"filters":null}"#);
    assert_eq!(raw.events().len(), 1);
    let vms = vec![crate::model::VM::default(); 20];
    raw.server.reply(&id("1"), Ok(&Outcome::VMs(vms)));
    let (_, _, payload) = raw.frame();
    assert!(payload.starts_with("DWCP error 0x1003"), "{payload}");
    assert!(!raw.server.is_live(&id("1")));
}
