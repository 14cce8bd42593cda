//! config.md and config-linux.md: mounts, propagation, masked and read-only paths.

use crate::case::{Case, Runtime, case, mountinfo, skip};
use crate::tests;
use serde_json::json;
use std::os::unix::fs::{MetadataExt as _, symlink};

tests! {
    #[quick] configMounts later_mounts_lie_over_earlier_ones;
    configMounts a_relative_destination_is_below_the_root;
    #[quick] configMounts binds_of_files_and_directories;
    configMounts a_bind_source_is_relative_to_the_bundle;
    configMounts a_missing_source_is_an_error;
    configMounts a_type_is_not_needed_for_a_bind;
    configMounts destinations_through_links_stay_inside;
    #[quick] configLinuxMountOptions flags_of_the_mount;
    configLinuxMountOptions each_required_option_is_known;
    configLinuxMountOptions unknown_options_go_to_the_file_system;
    configLinuxMountOptions options_that_the_file_system_refuses_are_errors;
    configLinuxMountOptions rbind_shows_what_is_mounted_below_and_bind_does_not;
    configLinuxMountOptions ro_is_for_one_mount_and_rro_for_all;
    configLinuxMountOptions recursive_attributes;
    #[quick] configLinuxMountOptions propagation;
    configLinuxMountOptions propagation_reaches_as_far_as_it_says;
    configLinuxMountOptions idmap;
    configLinuxMountOptions idmap_without_mappings_is_an_error;
    configPOSIXMounts mappings_of_users_and_groups_go_together;
    configLinuxMountOptions tmpcopyup;
    configLinuxMountOptions remount;
    configLinuxRootfsMountPropagation propagation_of_the_root;
    configLinuxRootfsMountPropagation an_unbindable_root;
    configLinuxRootfsMountPropagation a_root_that_hears_of_the_hosts_mounts;
    #[quick] configLinuxMaskedPaths masked_paths_cannot_be_read;
    configLinuxMaskedPaths masked_paths_that_are_not_there_are_no_error;
    #[quick] configLinuxReadonlyPaths read_only_paths_cannot_be_written;
    configLinuxDefaultFilesystems file_systems_are_what_they_should_be;
}

fn later_mounts_lie_over_earlier_ones(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    for (directory, size) in [("/m", "64k"), ("/m/below", "68k"), ("/m", "72k"), ("/m/other", "76k")] {
        let size = format!("size={size}");
        c.mount(json!({"destination": directory, "type": "tmpfs", "source": "tmpfs", "options": [size]}));
    }
    c.prints("ls /m; awk '$2 ~ \"^/m\" { print $2 }' /proc/mounts", "other\n/m\n/m/below\n/m\n/m/other");
}

fn a_relative_destination_is_below_the_root(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    c.mount(json!({"destination": "m/n", "type": "tmpfs", "source": "tmpfs"}));
    c.set("/process/cwd", "/etc".into()).prints("awk '$2 == \"/m/n\" { print $3 }' /proc/mounts", "tmpfs");
}

fn binds_of_files_and_directories(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    let shared = c.shared();
    std::fs::write(c.path().join("file"), "content").unwrap();
    let file = c.path().join("file").to_str().unwrap().to_owned();
    c.mount(json!({"destination": "/new/file", "type": "bind", "source": file, "options": ["bind", "ro"]}));
    c.prints("cat /new/file; echo; echo x > /host/x; echo y > /new/file || echo refused", "content\nrefused");
    assert!(shared.join("x").exists());
}

fn a_bind_source_is_relative_to_the_bundle(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    std::fs::create_dir_all(c.path().join("a/b")).unwrap();
    std::fs::write(c.path().join("a/b/c"), "content").unwrap();
    c.mount(json!({"destination": "/m", "type": "bind", "source": "a/b", "options": ["bind"]}));
    c.prints("cat /m/c", "content");
}

fn a_missing_source_is_an_error(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    c.mount(json!({"destination": "/m", "type": "bind", "source": "/no/such/source", "options": ["bind"]}))
        .refused();
    assert!(!std::path::Path::new("/no").exists(), "it was made");
}

fn a_type_is_not_needed_for_a_bind(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    std::fs::write(c.path().join("file"), "content").unwrap();
    for (at, options) in [("/a", json!(["bind"])), ("/b", json!(["rbind"]))] {
        c.mount(json!({"destination": at, "source": "file", "options": options}));
    }
    c.mount(json!({"destination": "/c", "type": "none", "source": "file", "options": ["bind"]}));
    c.prints("cat /a /b /c", "contentcontentcontent");
}

fn destinations_through_links_stay_inside(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    let outside = c.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    symlink(&outside, c.rootfs().join("absolute")).unwrap();
    symlink("../../outside", c.rootfs().join("relative")).unwrap();
    for at in ["/absolute/x", "/relative/y"] {
        c.mount(json!({"destination": at, "type": "tmpfs", "source": "tmpfs"}));
    }
    // Inside the root or not at all.
    drop(c.script("true").run());
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0, "something was made outside");
}

fn flags_of_the_mount(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    std::fs::create_dir(c.path().join("source")).unwrap();
    let cases = [
        ("ro", "ro,"),
        ("nosuid", "nosuid,"),
        ("nodev", "nodev,"),
        ("noexec", "noexec,"),
        ("noatime", "noatime"),
        ("nodiratime", "nodiratime"),
        ("strictatime", ""),
    ];
    for (option, _) in cases {
        let at = format!("/b/{option}");
        c.mount(json!({"destination": at, "type": "bind", "source": "source", "options": ["bind", option]}));
        let at = format!("/t/{option}");
        c.mount(json!({"destination": at, "type": "tmpfs", "source": "tmpfs", "options": [option]}));
    }
    let table = c.output("awk '{ print $5, $6 \",\" }' /proc/self/mountinfo");
    for (option, want) in cases {
        for kind in ["b", "t"] {
            let at = format!("/{kind}/{option} ");
            let line = table.lines().find(|l| l.starts_with(&at)).unwrap_or_else(|| panic!("no {at}"));
            assert!(line.contains(want), "{line}");
            assert!(option != "strictatime" || !line.contains("relatime"), "{line}");
        }
    }
}

fn each_required_option_is_known(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    std::fs::create_dir(c.path().join("source")).unwrap();
    let required = [
        "async",
        "atime",
        "defaults",
        "dev",
        "diratime",
        "dirsync",
        "exec",
        "iversion",
        "lazytime",
        "loud",
        "noatime",
        "nodev",
        "nodiratime",
        "noexec",
        "noiversion",
        "nolazytime",
        "norelatime",
        "nostrictatime",
        "nosuid",
        "private",
        "relatime",
        "ro",
        "rprivate",
        "rshared",
        "rslave",
        "runbindable",
        "rw",
        "shared",
        "silent",
        "slave",
        "strictatime",
        "suid",
        "sync",
        "unbindable",
    ];
    for option in required {
        let at = format!("/m/{option}");
        c.mount(json!({"destination": at, "type": "bind", "source": "source", "options": ["bind", option]}));
    }
    c.prints("awk '$2 ~ \"^/m/\"' /proc/mounts | wc -l", &required.len().to_string());
}

fn unknown_options_go_to_the_file_system(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    c.mount(json!({"destination": "/m", "type": "tmpfs", "source": "name", "options": ["nr_inodes=77", "mode=710", "uid=5"]}));
    c.prints("stat -c '%a %u' /m; awk '$2 == \"/m\" { print $1, $4 }' /proc/mounts | grep -o 'name\\|nr_inodes=77'", "710 5\nname\nnr_inodes=77");
}

fn options_that_the_file_system_refuses_are_errors(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    c.mount(json!({"destination": "/m", "type": "tmpfs", "source": "tmpfs", "options": ["nosuchoption=1"]}))
        .refused();
    case(runtime, &format!("{name}2"))
        .mount(json!({"destination": "/m", "type": "nosuchfs", "source": "none"}))
        .refused();
}

/// A tmpfs with a file, mounted below the directory `source` of the bundle before the runtime is called.
const SUBMOUNT: &str = "mount --make-rprivate /; mkdir -p source/below; mount -t tmpfs none source/below; touch source/below/file";

fn rbind_shows_what_is_mounted_below_and_bind_does_not(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    c.mount(json!({"destination": "/r", "type": "bind", "source": "source", "options": ["rbind"]}));
    c.mount(json!({"destination": "/b", "type": "bind", "source": "source", "options": ["bind"]}));
    submount(&mut c, "ls /r/below /b/below", "/b/below:\n\n/r/below:\nfile");
}

fn submount(c: &mut Case<'_>, script: &str, want: &str) {
    let id = c.id.clone();
    let output = c.script(script).call_after(SUBMOUNT, &["run", &id]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(text.trim(), want, "{}", String::from_utf8_lossy(&output.stderr));
}

fn ro_is_for_one_mount_and_rro_for_all(runtime: &Runtime, name: &str) {
    runtime.needs("/mountOptions", "rro");
    let mut c = case(runtime, name);
    c.mount(json!({"destination": "/ro", "type": "bind", "source": "source", "options": ["rbind", "ro"]}));
    c.mount(json!({"destination": "/rro", "type": "bind", "source": "source", "options": ["rbind", "rro"]}));
    submount(
        &mut c,
        "touch /ro/x || echo 1; touch /ro/below/x && echo 2; touch /rro/x || echo 3; touch /rro/below/y || echo 4",
        "1\n2\n3\n4",
    );
}

fn recursive_attributes(runtime: &Runtime, name: &str) {
    runtime.needs("/mountOptions", "rnosuid");
    let mut c = case(runtime, name);
    for option in ["rnosuid", "rnodev", "rnoexec", "rnoatime", "rnodiratime"] {
        let at = format!("/{option}");
        c.mount(json!({"destination": at, "type": "bind", "source": "source", "options": ["rbind", option]}));
    }
    submount(
        &mut c,
        "for o in nosuid nodev noexec noatime nodiratime; do awk -v o=$o '$5 ~ \"^/r\" o && $6 ~ o { n++ } END { print n }' /proc/self/mountinfo; done",
        "2\n2\n2\n2\n2",
    );
}

fn propagation(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    let words = ["private", "slave", "shared", "unbindable", "rprivate", "rslave", "rshared", "runbindable"];
    for word in words {
        let at = format!("/{word}");
        c.mount(json!({"destination": at, "type": "bind", "source": "source", "options": ["bind", word]}));
    }
    c.set("/linux/rootfsPropagation", "slave".into());
    let id = c.id.clone();
    c.script("awk '{ sub(\":.*\", \"\", $7); print $5, $7 }' /proc/self/mountinfo");
    // A source that is shared with the host, so that there is something to be a slave of.
    let steps = "mkdir source; mount --bind source source; mount --make-shared source";
    let output = c.call_after(steps, &["run", &id]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for (word, want) in words.iter().zip(["-", "master", "shared", "unbindable"].iter().cycle()) {
        let line = format!("/{word} {want}");
        assert!(text.lines().any(|l| l == line), "{line}: {text}{}", String::from_utf8_lossy(&output.stderr));
    }
}

fn propagation_reaches_as_far_as_it_says(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    for (at, option) in [("/slave", "rslave"), ("/private", "rprivate")] {
        c.mount(json!({"destination": at, "type": "bind", "source": "source", "options": ["rbind", option]}));
    }
    c.set("/linux/rootfsPropagation", "slave".into());
    c.script(
        "until [ -e /tmp/go ]; do sleep 0.02; done; cd /slave/later && ls; cd /private/later && ls; echo end",
    );
    let words = c.command(&["run", &c.id]);
    let words: Vec<_> = [words.get_program()]
        .into_iter()
        .chain(words.get_args())
        .map(|w| w.to_str().unwrap().to_owned())
        .collect();
    // The runtime runs beside, while the host mounts something new.
    let steps = format!(
        "mkdir -p source/later; mount --bind source source; mount --make-shared source; {} > seen & \
         until [ \"$({} state {} 2>/dev/null | grep -c running)\" = 1 ]; do sleep 0.02; done; \
         mount -t tmpfs none source/later; touch source/later/new; touch rootfs/tmp/go; wait",
        words.join(" "),
        words[..3].join(" "),
        c.id
    );
    let output = c.call_after(&steps, &["--version"]);
    let seen = std::fs::read_to_string(c.path().join("seen")).unwrap_or_default();
    assert_eq!(seen, "new\nend\n", "{}", String::from_utf8_lossy(&output.stderr));
}

fn idmap(runtime: &Runtime, name: &str) {
    runtime.needs("/linux/mountExtensions/idmap/enabled", "idmap");
    let mut c = case(runtime, name);
    let shared = c.path().join("source");
    std::fs::create_dir(&shared).unwrap();
    std::fs::write(shared.join("file"), "").unwrap();
    std::os::unix::fs::chown(shared.join("file"), Some(5), Some(6)).unwrap();
    let map = |inside: u32, outside: u32| json!([{"containerID": inside, "hostID": outside, "size": 1}]);
    c.mount(json!({"destination": "/m", "type": "bind", "source": "source", "options": ["bind", "idmap"],
        "uidMappings": map(5, 77), "gidMappings": map(6, 88)}));
    c.prints("stat -c %u:%g /m/file", "77:88");
    assert_eq!(shared.join("file").metadata().unwrap().uid(), 5);
}

fn idmap_without_mappings_is_an_error(runtime: &Runtime, name: &str) {
    runtime.needs("/mountOptions", "idmap");
    let mut c = case(runtime, name);
    std::fs::create_dir(c.path().join("source")).unwrap();
    c.mount(json!({"destination": "/m", "type": "bind", "source": "source", "options": ["bind", "idmap"]}))
        .refused();
}

fn mappings_of_users_and_groups_go_together(runtime: &Runtime, name: &str) {
    runtime.needs("/mountOptions", "idmap");
    let mut c = case(runtime, name);
    std::fs::create_dir(c.path().join("source")).unwrap();
    let map = json!([{"containerID": 0, "hostID": 1000, "size": 10}]);
    let mount =
        json!({"destination": "/m", "type": "bind", "source": "source", "options": ["bind", "idmap"]});
    for field in ["uidMappings", "gidMappings"] {
        let mut one = mount.clone();
        one[field] = map.clone();
        c.mount(one).refused();
        c.spec["mounts"].as_array_mut().unwrap().pop();
    }
}

fn tmpcopyup(runtime: &Runtime, name: &str) {
    runtime.needs("/mountOptions", "tmpcopyup");
    let mut c = case(runtime, name);
    std::fs::create_dir_all(c.rootfs().join("data/a")).unwrap();
    std::fs::write(c.rootfs().join("data/a/file"), "content").unwrap();
    c.mount(json!({"destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]}));
    c.prints("cat /data/a/file; touch /data/new", "content");
    assert!(!c.rootfs().join("data/new").exists());
}

fn remount(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    c.mount(json!({"destination": "/m", "type": "tmpfs", "source": "tmpfs"}));
    c.mount(json!({"destination": "/m", "type": "tmpfs", "source": "tmpfs", "options": ["remount", "ro"]}));
    c.prints("touch /m/x || echo refused", "refused");
}

fn propagation_of_the_root(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    for (word, want) in [("private", "-"), ("shared", "shared")] {
        c.set("/linux/rootfsPropagation", word.into());
        let seen = c.output(&mountinfo("/"));
        let field = seen.lines().last().unwrap_or_default().split(' ').nth(1).unwrap_or_default();
        assert_eq!(field.split(':').next(), Some(want), "{word}: {seen}");
    }
}

fn an_unbindable_root(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    c.set("/linux/rootfsPropagation", "unbindable".into());
    let seen = c.output(&mountinfo("/"));
    assert!(seen.ends_with(" unbindable"), "{seen}");
}

fn a_root_that_hears_of_the_hosts_mounts(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    c.set("/linux/rootfsPropagation", "slave".into());
    let id = c.id.clone();
    c.script(&mountinfo("/"));
    let output = c.call_after("mount --bind rootfs rootfs; mount --make-shared rootfs", &["run", &id]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains(" master:"), "{text}{}", String::from_utf8_lossy(&output.stderr));
}

fn masked_paths_cannot_be_read(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    std::fs::create_dir(c.rootfs().join("secret")).unwrap();
    std::fs::write(c.rootfs().join("secret/file"), "content").unwrap();
    std::fs::write(c.rootfs().join("file"), "content").unwrap();
    c.set("/linux/maskedPaths", json!(["/secret", "/file", "/proc/kcore"]));
    c.prints(
        "ls /secret; cat /file; touch /secret/x || echo refused; head -c 5 /proc/kcore | wc -c",
        "refused\n0",
    );
}

fn masked_paths_that_are_not_there_are_no_error(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    c.set("/linux/maskedPaths", json!(["/not/there", "/bin/not"]));
    c.set("/linux/readonlyPaths", json!(["/not/there/either"]));
    c.prints("ls -d /not 2>/dev/null; echo ran", "ran");
}

fn read_only_paths_cannot_be_written(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    std::fs::create_dir(c.rootfs().join("dir")).unwrap();
    c.set("/linux/readonlyPaths", json!(["/dir", "/proc/sys"]));
    c.prints(
        "touch /dir/x 2>/dev/null || echo 1; (echo x > /proc/sys/kernel/domainname) 2>/dev/null || echo 2; touch /etc/x && echo 3",
        "1\n2\n3",
    );
}

fn file_systems_are_what_they_should_be(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    let table = c.output("awk '{ print $2, $3 }' /proc/mounts");
    for line in ["/proc proc", "/sys sysfs", "/dev/pts devpts", "/dev/shm tmpfs"] {
        assert!(table.lines().any(|l| l == line), "{line}: {table}");
    }
    if table.is_empty() {
        skip("no mounts are shown");
    }
}
