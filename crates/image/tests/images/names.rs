//! Finding, naming and removing.

use crate::forge::Forged;
use crate::store::{Store, is_root, remove};
use image::{Error, Removed, User};
use oci::Reference;
use snapshot::Snapshotter;

#[test]
fn images_are_found_by_every_name() {
    if !is_root() {
        return;
    }
    let store = Store::new();
    let forged = Forged::small("a", 1);
    forged.store(&store.content);
    let target = forged.target();
    let pinned = format!("127.0.0.1:5000/a/b@{}", target.digest);
    store.import(&target, &["127.0.0.1:5000/a/b:1", &pinned, "plain:latest"]).unwrap();
    let id = forged.id();
    let hex = id.0.hex();
    for name in
        ["127.0.0.1:5000/a/b:1", &pinned, "plain", "docker.io/library/plain", &hex, &hex[..3], &hex[..1]]
    {
        assert_eq!(store.images.get(name).unwrap().id, id, "{name}");
    }
    assert_eq!(store.images.get(&id.to_string()).unwrap().id, id);
    assert_eq!(store.images.get(&format!("sha256:{}", &hex[..7])).unwrap().id, id);
    let no_such = |name: &str| store.images.get(name).unwrap_err().to_string();
    assert_eq!(no_such("plain:2"), "No such image: plain:2");
    assert_eq!(no_such("other"), "No such image: other:latest");
    assert!(no_such(&"0".repeat(64)).starts_with("No such image: 000"));
    assert!(no_such("UPPER").starts_with("invalid reference format"));
}

#[test]
fn a_tag_that_moves_leaves_the_image_dangling() {
    if !is_root() {
        return;
    }
    let store = Store::new();
    let (old, new) = (Forged::small("old", 1), Forged::small("new", 1));
    for forged in [&old, &new] {
        forged.store(&store.content);
        store.import(&forged.target(), &["x:latest"]).unwrap();
    }
    let store = store.restart();
    assert_eq!(store.images.list().unwrap().len(), 2);
    assert_eq!(store.images.get("x").unwrap().id, new.id());
    assert!(store.images.image(&old.id()).unwrap().tags.is_empty());
    store.images.tag(&old.id().short(), &"y".parse::<Reference>().unwrap()).unwrap();
    assert_eq!(store.images.get("y:latest").unwrap().id, old.id());
    let removed = remove(&store, "y", false, &[]).unwrap();
    let chain_id = image::chain_ids(&serde_json::from_value(old.config.clone()).unwrap())[0];
    assert_eq!(
        removed,
        [
            Removed::Untagged("y:latest".into()),
            Removed::Deleted(old.id().to_string()),
            Removed::Deleted(chain_id.to_string())
        ]
    );
    store.check();
}

#[test]
fn a_container_keeps_the_layers_of_a_removed_image() {
    if !is_root() {
        return;
    }
    let store = Store::new();
    let forged = Forged::small("a", 3);
    forged.store(&store.content);
    let image = store.import(&forged.target(), &["x:1"]).unwrap();
    store.overlay.prepare("c1", image.chain_id.as_ref()).unwrap();
    let users = [User { container_id: "c1".into(), running: false }];
    assert!(remove(&store, "x:1", false, &users).is_err());
    remove(&store, "x:1", true, &users).unwrap();
    assert_eq!(store.counts(), (4, 0, 0));
    let store = store.restart();
    assert_eq!(store.overlay.layers(&image.chain_id.unwrap()).unwrap().paths.len(), 3);
    store.overlay.remove("c1").unwrap();
    assert_eq!(store.images.collect_garbage().unwrap().layers.len(), 3);
    assert_eq!(store.counts(), (0, 0, 0));
    assert_eq!(store.overlay.empty_trash().unwrap(), 4);
    store.check();
}

/// Imports, containers, removals and collections in each other's way: each sees success or a clean refusal, and what
/// is left is whole.
#[test]
fn imports_containers_and_removals_at_once_leave_a_sound_store() {
    if !is_root() {
        return;
    }
    let store = Store::new();
    let shared = crate::forge::Tar::new().file("shared", &[1; 100]).finish();
    let forged: Vec<Forged> = (0..4u8)
        .map(|n| {
            let own = crate::forge::Tar::new().file("own", &[n; 100]).finish();
            Forged::new(&[shared.clone(), own])
        })
        .collect();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (store, forged) = (&store, &forged);
            scope.spawn(move || {
                for round in 0..15 {
                    let forged = &forged[(thread + round) % 4];
                    let lease = store.images.lease();
                    for blob in forged.blobs() {
                        lease.keep_blob(&oci::Digest::of(&blob));
                    }
                    forged.store(&store.content);
                    let name = format!("x:{}", forged.id().short());
                    let image = store.import(&forged.target(), &[&name]).unwrap();
                    drop(lease);
                    let key = format!("c-{thread}-{round}");
                    match store.overlay.prepare(&key, image.chain_id.as_ref()) {
                        Ok(()) => {
                            assert_eq!(store.overlay.layers(&image.chain_id.unwrap()).unwrap().paths.len(), 2)
                        }
                        Err(e) => assert_eq!(errors::HasKind::kind(&e), errors::Kind::NotFound),
                    }
                    if let Err(e) = remove(store, &name, true, &[]) {
                        assert!(matches!(e, Error::NoSuchImage { .. }), "{e}");
                    }
                    store.overlay.remove(&key).unwrap();
                    store.overlay.empty_trash().unwrap_or_default();
                }
            });
        }
    });
    store.images.collect_garbage().unwrap();
    store.check();
    let images = store.images.list().unwrap().len();
    assert_eq!(store.counts().0, if images == 0 { 0 } else { images + 1 });
}
