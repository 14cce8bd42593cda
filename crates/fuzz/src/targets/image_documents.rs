//! An index, a manifest or a config of an image.

use oci::image::media_type::{OCI_INDEX, OCI_MANIFEST};
use oci::{Digest, Platform};

pub(crate) fn run(data: &[u8]) {
    let digest = Digest::of(data);
    if let Ok(index) = image::parse_index(data, &digest, OCI_INDEX) {
        drop(image::choose(&index, &Platform::host()));
        assert!(
            image::parse_manifest(data, &digest, OCI_MANIFEST).is_err(),
            "one document is an index and a manifest"
        );
    }
    if let Ok(config) = image::parse_config(data, &digest) {
        assert_eq!(image::chain_ids(&config).len(), config.rootfs.diff_ids.len());
        let _platform = config.platform();
    }
}
