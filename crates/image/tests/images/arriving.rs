//! Layers that are unpacked while their blobs arrive.

use crate::forge::{Tar, pack};
use crate::store::{Store, is_root};
use archive::Compression;
use image::ignore;
use oci::{Descriptor, Digest};
use std::io::Write;

struct Layer {
    blob: Vec<u8>,
    diff_id: Digest,
    descriptor: Descriptor,
}

fn layer(content: &[u8]) -> Layer {
    let tar = Tar::new().file("file", content).finish();
    let blob = pack(&tar, Compression::Gzip);
    let descriptor =
        Descriptor::new("application/vnd.oci.image.layer.v1.tar+gzip", Digest::of(&blob), blob.len() as u64);
    Layer { diff_id: Digest::of(&tar), blob, descriptor }
}

#[test]
fn a_layer_is_there_when_its_blob_is() {
    if !is_root() {
        return;
    }
    let store = Store::new();
    let bytes: Vec<u8> =
        (0..2_000_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let layer = layer(&bytes);
    let lease = store.images.lease();
    let mut ingest =
        store.content.ingest(Some(layer.descriptor.digest), Some(layer.descriptor.size)).unwrap();
    let blob = ingest.follow().unwrap();
    std::thread::scope(|scope| {
        let unpacking = scope.spawn(|| {
            store.images.unpack_arriving(&lease, &layer.descriptor, &layer.diff_id, None, blob, &ignore)
        });
        for piece in layer.blob.chunks(100_000) {
            ingest.write_all(piece).unwrap();
        }
        let seen = snapshot::Snapshotter::layer(&*store.overlay, &Digest::chain(None, layer.diff_id));
        assert_eq!(seen.unwrap(), None, "seen before it was verified");
        ingest.commit().unwrap();
        unpacking.join().unwrap().unwrap();
    });
    let before = store.counts();
    // Nothing is unpacked a second time.
    let chain_id =
        store.images.unpack_layer(&lease, &layer.descriptor, &layer.diff_id, None, &ignore).unwrap();
    assert_eq!(store.counts(), before);
    let layers = snapshot::Snapshotter::layers(&*store.overlay, &chain_id).unwrap();
    assert!(std::fs::read(layers.paths[0].join("file")).unwrap() == bytes);
}

/// A registry that sends its blob one byte a minute keeps nobody else from the same layer.
#[test]
fn nobody_waits_for_a_blob_that_does_not_come() {
    if !is_root() {
        return;
    }
    let store = Store::new();
    let layer = layer(b"content");
    let lease = store.images.lease();
    // The peer of the slow pull promises another blob with the same files.
    let slow = Descriptor { digest: Digest::of(b"slow"), ..layer.descriptor.clone() };
    let mut ingest = store.content.ingest(Some(slow.digest), Some(slow.size)).unwrap();
    ingest.write_all(&layer.blob[..1]).unwrap();
    let blob = ingest.follow().unwrap();
    std::thread::scope(|scope| {
        let unpacking =
            scope.spawn(|| store.images.unpack_arriving(&lease, &slow, &layer.diff_id, None, blob, &ignore));
        store.content.put(&layer.blob).unwrap();
        store.images.unpack_layer(&lease, &layer.descriptor, &layer.diff_id, None, &ignore).unwrap();
        drop(ingest);
        // Whether it had begun or came too late, what it did is gone, and the layer is the other's.
        drop(unpacking.join().unwrap());
    });
    assert_eq!(store.counts().0, 1);
}

#[test]
fn a_blob_that_is_wrong_makes_no_layer() {
    if !is_root() {
        return;
    }
    let store = Store::new();
    let layer = layer(b"content");
    let lease = store.images.lease();
    let promised = Descriptor { digest: Digest::of(b"promised"), ..layer.descriptor.clone() };
    let mut ingest = store.content.ingest(Some(promised.digest), Some(promised.size)).unwrap();
    let blob = ingest.follow().unwrap();
    ingest.write_all(&layer.blob).unwrap();
    assert!(ingest.commit().is_err());
    let result = store.images.unpack_arriving(&lease, &promised, &layer.diff_id, None, blob, &ignore);
    assert!(matches!(result, Err(image::Error::Content(_))), "{result:?}");
    assert_eq!(store.counts().0, 0);
}
