//! Layers packed as nobody's specification says, which some builders make: pulled from a real registry by what they are.

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use oci::image::media_type;
use serde_json::json;
use testkit::registry::Registry;

/// A tar with the file `f`, by `xz` and by `bzip2`.
const PACKED: [(&str, &str); 2] = [
    (
        "xz",
        "fd377a585a0000016922de360200210116000000742fe5a3e027ff005b5d00330033501868898301dce26e21055fecbe435a53c395acd065cd7bac6d82d98de75429a9c3f5b85ede23d64a27626ad0beb9cfb213e2f59167636fc7b9439a309039a4c00142f9bfe5b79b5eb86d45937aae651ce499e366ab87000000b14b8d450001738050000000821408343e300d8b020000000001595a",
    ),
    (
        "bzip2",
        "425a6839314159265359a3f129c300006ffb80c9900008400075800000ef085e00080820005434823264d3098d23d0494d4d1a69a0189a07d488c84107a10895b4c4da5182043828c6b7099c23864175a882d8da281fd83d6749c222448880d8bb9229c284851f894e18",
    ),
];
const DIFF_ID: &str = "sha256:95428f1583ec3c6890203bc59b85498070eb5e5ef746f2b424f49d20485336e9";

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2);
    digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

#[test]
fn xz_and_bzip2_are_pulled() {
    let Some(daemon) = e2e::own() else { return };
    let registry = Registry::start();
    let platform = oci::Platform::host();
    let config = json!({
        "os": platform.os, "architecture": platform.architecture,
        "config": {"Cmd": ["/f"]}, "rootfs": {"type": "layers", "diff_ids": [DIFF_ID]},
    });
    for (codec, hex) in PACKED {
        // What is said of its packing is not what counts.
        let types = [media_type::DOCKER_LAYER_GZIP.to_string(), format!("{}+{codec}", media_type::OCI_LAYER)];
        for (tag, layer_type) in types.iter().enumerate() {
            let config =
                registry.push_blob(codec, media_type::OCI_CONFIG, &serde_json::to_vec(&config).unwrap());
            let layer = registry.push_blob(codec, layer_type, &unhex(hex));
            let manifest = json!({
                "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "config": config, "layers": [layer],
            });
            let bytes = serde_json::to_vec(&manifest).unwrap();
            let tag = tag.to_string();
            registry.push_manifest(codec, &tag, media_type::OCI_MANIFEST, &bytes);
            let reference = registry.reference(codec, &tag);
            daemon.brig(&["pull", &reference]).success();
            daemon.brig(&["create", "--name", "one", &reference]).success();
            let copied = daemon.exec_root.join("f");
            daemon.brig(&["cp", "one:/f", copied.to_str().unwrap()]).success();
            assert_eq!(std::fs::read_to_string(&copied).unwrap(), "packed\n", "{codec} as {layer_type}");
            daemon.brig(&["rm", "one"]).success();
            // It goes on as it came.
            let other = registry.reference(&format!("{codec}-again"), &tag);
            daemon.brig(&["tag", &reference, &other]).success();
            daemon.brig(&["push", &other]).success();
            assert!(registry.has_blob(&format!("{codec}-again"), &layer.digest));
            daemon.brig(&["rmi", &reference, &other]).success();
        }
    }
    daemon.assert_no_leaks();
}
