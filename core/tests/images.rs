//! Images of a node, through its API.
#![cfg(all(feature = "node", target_os = "linux", target_arch = "x86_64"))]
#![allow(clippy::unwrap_used, reason = "a helper of tests fails the test")]

use std::fs;
use std::path::Path;

use dwcp::{Backend, Client, ClientConfig, DWCPError, Node, Role, VMConfig};

/// A folder with an image whose root disk has 8 MiB.
fn image(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("vmlinuz"), elf()).unwrap();
    let disk = fs::File::create(folder.join("root.img")).unwrap();
    disk.set_len(8 << 20).unwrap();
    let text = "format = 1\nname = \"mini\"\ncmdline = \"console=ttyS0\"\n\
                [kernel]\nfile = \"vmlinuz\"\n[disk]\nfile = \"root.img\"\n";
    fs::write(folder.join("image.toml"), text).unwrap();
}

/// The smallest kernel: an ELF file with one segment of 16 bytes, to be loaded at 16 MiB.
fn elf() -> Vec<u8> {
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    for half in [2_u16, 62] {
        file.extend(half.to_le_bytes()); // executable, x86-64
    }
    file.extend(1_u32.to_le_bytes());
    for word in [16_u64 << 20, 64, 0] {
        file.extend(word.to_le_bytes()); // entry, program headers, sections
    }
    file.extend(0_u32.to_le_bytes());
    for half in [64_u16, 56, 1, 0, 0, 0] {
        file.extend(half.to_le_bytes()); // sizes and counts
    }
    for half in [1_u32, 5] {
        file.extend(half.to_le_bytes()); // a segment to load, read and executed
    }
    for word in [120_u64, 16 << 20, 16 << 20, 16, 16, 4096] {
        file.extend(word.to_le_bytes()); // offset, addresses, sizes, alignment
    }
    file.extend([0xf4; 16]);
    file
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
    admin.import_image(path, Some("wrong")).await.unwrap();
    let wrong = VMConfig {
        image: "wrong".into(),
        ..config.clone()
    };
    match operator.create(wrong).await {
        Err(DWCPError::Config(text)) => assert!(text.starts_with("kernel: "), "{text}"),
        other => panic!("{other:?}"),
    }
    admin.remove_image("wrong").await.unwrap();
    let vm = operator.create(config).await.unwrap();
    assert_eq!(vm.config.disk, 8 << 20, "the size of the image's");
    match admin.remove_image("web").await {
        Err(DWCPError::InvalidOperation(text)) => assert!(text.contains(&vm.id), "{text}"),
        other => panic!("{other:?}"),
    }
    operator.destroy(&vm.id).await.unwrap();
    admin.remove_image("web").await.unwrap();
    assert_eq!(operator.list_images().await.unwrap(), []);
    node.shutdown(std::time::Duration::ZERO).await.unwrap();
}
