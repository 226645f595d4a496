//! Images of a node, through its API.
#![cfg(all(feature = "node", target_os = "linux", target_arch = "x86_64"))]
#![allow(clippy::unwrap_used, reason = "a helper of tests fails the test")]

mod support;

use std::fs;
use std::path::Path;

use dwcp::{Backend, Client, ClientConfig, DWCPError, Node, Role, VMConfig};
use support::smallest_kernel;

/// A folder with an image whose root disk has 8 MiB.
fn image(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("vmlinuz"), smallest_kernel()).unwrap();
    let disk = fs::File::create(folder.join("root.img")).unwrap();
    disk.set_len(8 << 20).unwrap();
    let text = "format = 1\nname = \"mini\"\ncmdline = \"console=ttyS0\"\n\
                [kernel]\nfile = \"vmlinuz\"\n[disk]\nfile = \"root.img\"\n";
    fs::write(folder.join("image.toml"), text).unwrap();
}

fn named(name: &str) -> VMConfig {
    VMConfig {
        name: name.into(),
        memory: 32 << 20,
        ..VMConfig::default()
    }
}

#[tokio::test]
async fn images_are_imported_listed_and_removed_by_those_who_may() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("from");
    image(&from);
    let node = Node::builder("n")
        .backend(Backend::Sim)
        .data_dir(dir.path().join("data"))
        .listen("127.0.0.1:0")
        .api_key("admin-secret", Role::Admin)
        .api_key("operator-secret", Role::Operator)
        .start()
        .await
        .unwrap();
    let client = async |key: &str| {
        let config = ClientConfig::new("127.0.0.1")
            .with_port(node.address().unwrap().port())
            .with_tls_enabled(false)
            .with_api_key(key);
        Client::new(config).await.unwrap().vm()
    };
    let path = from.to_str().unwrap();
    let operator = client("operator-secret").await;
    let refused = operator.import_image(path, None).await;
    assert!(matches!(refused, Err(DWCPError::PermissionDenied(_))));

    let admin = client("admin-secret").await;
    let imported = admin.import_image(path, Some("web")).await.unwrap();
    assert_eq!((imported.name.as_str(), imported.disk), ("web", 8 << 20));
    assert_eq!(operator.list_images().await.unwrap(), [imported]);

    let unknown = VMConfig {
        image: "mini".into(),
        ..named("vm")
    };
    match operator.create(unknown).await {
        Err(DWCPError::NotFound(text)) => assert!(text.contains("`mini`"), "{text}"),
        other => panic!("{other:?}"),
    }
    let config = VMConfig {
        image: "web".into(),
        ..named("vm")
    };
    fs::write(from.join("vmlinuz"), b"not a kernel").unwrap();
    match admin.import_image(path, Some("wrong")).await {
        Err(DWCPError::Config(text)) => assert!(text.starts_with("kernel: "), "{text}"),
        other => panic!("{other:?}"),
    }
    let words = |words: &str| VMConfig {
        annotations: [("dwcp.kernel/cmdline".into(), words.into())].into(),
        ..config.clone()
    };
    let long = "x".repeat(2047);
    for (wrong, says) in [("a\nb", "'\\n'"), (long.as_str(), "2061 bytes")] {
        match operator.create(words(wrong)).await {
            Err(DWCPError::Config(text)) => {
                let field = text.starts_with("annotations.dwcp.kernel/cmdline: ");
                assert!(field && text.contains(says), "{text}");
            }
            other => panic!("{other:?}"),
        }
    }
    let config = words("systemd.unit=rescue.target");
    let vm = operator.create(config).await.unwrap();
    assert_eq!(vm.config.disk, 8 << 20, "the size of the image's");
    match admin.remove_image("web").await {
        Err(DWCPError::InvalidOperation(text)) => assert!(text.contains(&vm.id), "{text}"),
        other => panic!("{other:?}"),
    }
    let wrong = [("dwcp.kernel/cmdline".to_owned(), "ä".to_owned())].into();
    let refused = operator.update(&vm.id, None, Some(wrong)).await;
    assert!(matches!(refused, Err(DWCPError::Config(_))), "{refused:?}");
    operator.destroy(&vm.id).await.unwrap();
    admin.remove_image("web").await.unwrap();
    assert_eq!(operator.list_images().await.unwrap(), []);
    node.shutdown(std::time::Duration::ZERO).await.unwrap();
}
