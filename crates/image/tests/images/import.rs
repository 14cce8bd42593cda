//! Importing: what good images become, and why bad ones do not.

use crate::forge::{Forged, Tar, pack};
use crate::store::{Store, is_root};
use errors::{HasKind, Kind};
use image::State;
use oci::image::media_type;
use oci::{Descriptor, Digest, Platform};
use serde_json::json;
use snapshot::Snapshotter as _;
use std::sync::Mutex;

#[test]
fn an_image_is_unpacked_mounted_and_removed() {
    if !is_root() {
        return;
    }
    let store = Store::new();
    let forged = Forged::small("one", 4);
    forged.store(&store.content);
    let seen = Mutex::new(Vec::new());
    let image = store.import_with(&forged.target(), &["x:1"], &|p| seen.lock().unwrap().push(*p)).unwrap();
    assert_eq!(image.id, forged.id());
    let done = seen.lock().unwrap().iter().filter(|p| p.state == State::Done).count();
    assert_eq!(done, 4);
    store.with_mount(&image, |root| {
        for n in 0..4 {
            assert_eq!(std::fs::read_to_string(root.join(format!("etc/{n}"))).unwrap(), format!("one {n}"));
        }
        assert_eq!(std::fs::read_to_string(root.join("etc/top")).unwrap(), "one 3");
    });
    let store = store.restart();
    store.check();
    assert_eq!(store.images.get("x:1").unwrap(), image);
    assert_eq!(store.images.config(&image.id).unwrap().rootfs.diff_ids.len(), 4);
    let history = store.images.history(&image.id).unwrap();
    assert_eq!(history.len(), 4);
    assert_eq!((history[0].id, history[0].created_by.as_str()), (Some(image.id), "step 3"));
    assert!(history.iter().all(|step| step.size_bytes == 10));
    assert_eq!(image.size_bytes, 40);
    crate::store::remove(&store, "x:1", false, &[]).unwrap();
    assert_eq!(store.counts(), (0, 0, 0));
    store.check();
}

#[test]
fn the_manifest_is_chosen_by_platform() {
    if !is_root() {
        return;
    }
    let store = Store::new();
    let ours = Forged::small("ours", 1);
    ours.store(&store.content);
    let mut other = Descriptor::new(media_type::OCI_MANIFEST, Digest::of(b"not here"), 8);
    other.platform = Some("linux/s390x".parse().unwrap());
    let mut entry = ours.target();
    entry.platform = Some(Platform::host());
    let index = json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [other, entry]});
    let bytes = serde_json::to_vec(&index).unwrap();
    store.content.put(&bytes).unwrap();
    let target = Descriptor::new(media_type::OCI_INDEX, Digest::of(&bytes), bytes.len() as u64);
    let pinned = format!("x@{}", target.digest);
    let image = store.import(&target, &["x:1", &pinned]).unwrap();
    assert_eq!(image.id, ours.id());
    assert_eq!(image.target, target);
    assert_eq!(image.manifest.digest, ours.target().digest);
    assert_eq!(image.digests, [pinned.parse().unwrap()]);
    assert!(store.content.contains(&target.digest), "the index is kept with the image");
    let wanted: Platform = "windows/arm64".parse().unwrap();
    let import = image::Import {
        target: &target,
        platform: &wanted,
        references: &[],
        lease: None,
        progress: &image::ignore,
    };
    let error = store.images.import(&import).unwrap_err();
    assert_eq!(error.to_string(), "no matching manifest for windows/arm64 in the manifest list entries");
    store.images.collect_garbage().unwrap();
    store.check();
}

/// Imports an image that was broken by `breaks`; expects a failure and nothing left.
fn refuse(breaks: impl FnOnce(&mut Forged), expected: &str, kind: Kind) {
    let store = Store::new();
    let good = Forged::small("good", 1);
    good.store(&store.content);
    store.import(&good.target(), &["good:1"]).unwrap();
    let before = store.counts();
    let mut forged = Forged::small("bad", 3);
    breaks(&mut forged);
    forged.store(&store.content);
    let error = store.import(&forged.target(), &["x:1"]).unwrap_err();
    let text = errors::chain(&error);
    assert!(text.contains(expected), "{text}");
    assert_eq!(error.kind(), kind, "{text}");
    store.images.collect_garbage().unwrap();
    assert_eq!(store.counts(), before, "{text}");
    store.check();
}

#[test]
fn documents_that_lie_are_refused() {
    if !is_root() {
        return;
    }
    let invalid = Kind::InvalidArgument;
    refuse(
        |f| {
            f.config["rootfs"]["diff_ids"].as_array_mut().unwrap().pop();
            f.config["history"].as_array_mut().unwrap().pop();
            f.describe();
        },
        "it has 3 layers, its config has 2",
        invalid,
    );
    refuse(|f| f.manifest["manifests"] = json!([]), "belongs to another kind of document", invalid);
    refuse(|f| f.manifest["Layers"] = json!([]), "duplicate field", invalid);
    refuse(|f| f.manifest["schemaVersion"] = json!(1), "schemaVersion is 1", invalid);
    refuse(|f| f.manifest["mediaType"] = json!(media_type::OCI_INDEX), "it says that it is", invalid);
    refuse(|f| f.manifest["layers"][0]["size"] = json!(7), "has 7 bytes", invalid);
    refuse(|f| f.manifest["layers"][0]["size"] = json!(-7), "invalid value", invalid);
    refuse(|f| f.manifest["config"]["size"] = json!(7), "its descriptor says 7", invalid);
    refuse(|f| f.manifest["config"]["size"] = json!(1u64 << 40), "its config has", invalid);
    refuse(
        |f| f.manifest["layers"][0]["digest"] = json!("sha256:../../../etc/passwd"),
        "invalid digest",
        invalid,
    );
    refuse(|f| f.manifest = json!("text"), "expected an object", invalid);
    refuse(
        |f| {
            f.manifest["layers"][1]["mediaType"] =
                json!("application/vnd.oci.image.layer.v1.tar+gzip+encrypted")
        },
        "unsupported type",
        Kind::Unsupported,
    );
    refuse(
        |f| f.manifest["layers"][1]["digest"] = json!(Digest::of(b"missing").to_string()),
        "not found",
        Kind::NotFound,
    );
    refuse(
        |f| {
            let step = f.config["history"][0].clone();
            f.config["history"].as_array_mut().unwrap().push(step);
            f.describe();
        },
        "its history speaks of 4 layers, it has 3",
        invalid,
    );
    refuse(
        |f| {
            f.config["rootfs"]["type"] = json!("elephants");
            f.describe();
        },
        "elephants",
        invalid,
    );
    refuse(
        |f| {
            let deep = "[".repeat(100_000) + &"]".repeat(100_000);
            f.config["config"]["Healthcheck"] = json!(deep);
            let text = f.config.to_string().replace(&format!("\"{deep}\""), &deep);
            // Not representable as a value: describe it by hand.
            f.layers.push(text.clone().into_bytes());
            f.layer_types.push(media_type::OCI_LAYER);
            f.describe();
            f.manifest["config"] = serde_json::to_value(Descriptor::new(
                media_type::OCI_CONFIG,
                Digest::of(text.as_bytes()),
                text.len() as u64,
            ))
            .unwrap();
        },
        "recursion limit",
        invalid,
    );
}

#[test]
fn layers_that_lie_are_refused() {
    if !is_root() {
        return;
    }
    refuse(
        |f| {
            f.layers[1] = pack(&Tar::new().file("other", b"x").finish(), archive::Compression::Zstd);
            f.describe();
        },
        "as the image's config says",
        Kind::DataLoss,
    );
    refuse(
        |f| {
            let half = f.layers[0].len() / 2;
            f.layers[0].truncate(half);
            f.describe();
        },
        "unpack layer",
        Kind::DataLoss,
    );
    let broken = |tar: Tar| {
        let mut tars = vec![tar.finish()];
        tars.push(Tar::new().file("a", b"b").finish());
        move |f: &mut Forged| *f = Forged::new(&tars)
    };
    refuse(broken(Tar::new().file("../../escaped", b"x")), "unpack layer", Kind::Hostile);
    refuse(|f| *f = Forged::new(&[b"this is no tar".repeat(100)]), "unpack layer", Kind::DataLoss);
}

#[test]
fn the_same_image_imported_by_many_at_once_is_one() {
    if !is_root() {
        return;
    }
    let store = Store::new();
    let forged = Forged::small("many", 6);
    forged.store(&store.content);
    let lease = store.images.lease();
    for blob in forged.blobs() {
        lease.keep_blob(&Digest::of(&blob));
    }
    std::thread::scope(|scope| {
        for n in 0..8 {
            let (store, forged) = (&store, &forged);
            scope.spawn(move || store.import(&forged.target(), &[&format!("x:{n}")]).unwrap());
            scope.spawn(move || store.images.collect_garbage().unwrap());
        }
    });
    drop(lease);
    assert_eq!(store.images.list().unwrap().len(), 1);
    assert_eq!(store.images.get("x:3").unwrap().tags.len(), 8);
    assert_eq!(store.counts().0, 6);
    store.check();
}

#[test]
fn images_share_layers_and_sizes_say_so() {
    if !is_root() {
        return;
    }
    let store = Store::new();
    let base = Tar::new().file("base", &[1; 1000]).finish();
    let top = |byte: u8| Tar::new().file("top", &[byte; 500]).finish();
    let (a, b) = (Forged::new(&[base.clone(), top(1)]), Forged::new(&[base, top(2)]));
    for (forged, name) in [(&a, "a"), (&b, "b")] {
        forged.store(&store.content);
        store.import(&forged.target(), &[&format!("{name}:1")]).unwrap();
    }
    assert_eq!(store.counts(), (3, 7, 2));
    let sizes = store.images.sizes().unwrap();
    assert_eq!((sizes[&a.id()].size_bytes, sizes[&a.id()].shared_bytes), (1500, 1000));
    assert_eq!(store.images.disk_usage().unwrap().layers_bytes, 2000);
    crate::store::remove(&store, "a:1", false, &[]).unwrap();
    assert_eq!(store.counts(), (2, 4, 1));
    assert_eq!(store.images.sizes().unwrap()[&b.id()].shared_bytes, 0);
    store.check();
}

#[test]
fn an_image_without_layers_is_an_empty_root() {
    if !is_root() {
        return;
    }
    let store = Store::new();
    let forged = Forged::new(&[]);
    forged.store(&store.content);
    let image = store.import(&forged.target(), &["scratch:1"]).unwrap();
    assert_eq!(image.chain_id, None);
    store.with_mount(&image, |root| assert_eq!(std::fs::read_dir(root).unwrap().count(), 0));
    store.check();
}

/// The bytes of a layer are not believed to be here because its files are: they pack to others.
#[test]
fn a_plain_layer_is_missed_though_it_is_unpacked() {
    if !is_root() {
        return;
    }
    let store = Store::new();
    let forged = Forged::small("plain", 3);
    forged.store(&store.content);
    store.import(&forged.target(), &["x:1"]).unwrap();
    let plain = forged.layers.last().unwrap();
    assert!(store.content.remove(&oci::Digest::of(plain)).unwrap());
    let refused = store.import(&forged.target(), &["x:2"]).unwrap_err();
    assert!(errors::chain(&refused).contains("not found"), "{refused:?}");
    store.content.put(plain).unwrap();
    store.import(&forged.target(), &["x:2"]).unwrap();
    store.check();
}

#[test]
fn a_lost_layer_is_unpacked_again_and_an_image_without_config_is_dropped() {
    if !is_root() {
        return;
    }
    let store = Store::new();
    let (kept, lost) = (Forged::small("kept", 3), Forged::small("lost", 2));
    for forged in [&kept, &lost] {
        forged.store(&store.content);
        store.import(&forged.target(), &[&format!("x:{}", forged.id().short())]).unwrap();
    }
    let image = store.images.image(&kept.id()).unwrap();
    let dirs = store.overlay.layers(&image.chain_id.unwrap()).unwrap();
    std::fs::remove_dir_all(dirs.paths[1].parent().unwrap()).unwrap();
    store.content.remove(&lost.id().0).unwrap();
    let done = store.images.reconcile().unwrap();
    assert_eq!((done.repaired, done.dropped), (vec![kept.id()], vec![lost.id()]));
    assert_eq!(store.images.image(&kept.id()).unwrap(), image);
    store.with_mount(&image, |root| assert!(root.join("etc/1").exists()));
    store.check();
    assert_eq!(store.counts().2, 1);
}
