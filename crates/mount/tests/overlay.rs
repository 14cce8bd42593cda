//! Overlay mounts by both roads. Needs root.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "the helpers of tests fail as tests do")]

use mount::{Overlay, detach, is_mounted, list_below, mount_overlay, mount_overlay_in_one_call};
use std::path::{Path, PathBuf};

type Road = fn(&Overlay<'_>, &Path) -> Result<(), mount::Error>;

struct Dirs {
    dir: tempfile::TempDir,
}

impl Dirs {
    fn new() -> Option<Dirs> {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root");
            return None;
        }
        Some(Dirs { dir: tempfile::tempdir().unwrap() })
    }

    fn make(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }
}

impl Drop for Dirs {
    fn drop(&mut self) {
        for mount in list_below(self.dir.path()).unwrap().iter().rev() {
            detach(&mount.target).unwrap();
        }
    }
}

fn check(road: Road, base: &str, layers: usize) {
    let Some(dirs) = Dirs::new() else { return };
    let lowers: Vec<PathBuf> = (1..=layers).map(|n| dirs.make(&format!("{base}{n}/fs"))).collect();
    for (n, lower) in lowers.iter().enumerate() {
        std::fs::write(lower.join(n.to_string()), "").unwrap();
        std::fs::write(lower.join("which"), n.to_string()).unwrap();
    }
    let (upper, work, target) =
        (dirs.make(&format!("{base}u/fs")), dirs.make(&format!("{base}u/work")), dirs.make("target"));
    let cwd = std::env::current_dir().unwrap();
    road(&Overlay { lowers: &lowers, upper: &upper, work: &work, volatile: true, read_only: false }, &target)
        .unwrap();
    assert_eq!(std::env::current_dir().unwrap(), cwd, "the process keeps its working directory");
    assert!(is_mounted(&target).unwrap());
    assert_eq!(std::fs::read_dir(&target).unwrap().count(), layers + 1);
    assert_eq!(std::fs::read_to_string(target.join("which")).unwrap(), "0", "the first is the topmost");
    std::fs::write(target.join("new"), "x").unwrap();
    assert!(upper.join("new").exists());
}

#[test]
fn step_by_step() {
    check(mount_overlay, "l/", 1);
    check(mount_overlay, "l/", 300);
}

#[test]
fn in_one_call() {
    check(mount_overlay_in_one_call, "l/", 1);
    check(mount_overlay_in_one_call, "l/", 300);
}

#[test]
fn names_with_commas_colons_and_backslashes() {
    check(mount_overlay, "a,b:c\\d e/", 3);
    check(mount_overlay_in_one_call, "a,b:c\\d e/", 3);
}

#[test]
fn paths_longer_than_fsconfig_takes() {
    let long = format!("{0}/{0}/{0}/", "x".repeat(120));
    check(mount_overlay, &long, 40);
    check(mount_overlay_in_one_call, &long, 40);
}

#[test]
fn more_options_than_a_page_holds_are_refused_in_words() {
    let Some(dirs) = Dirs::new() else { return };
    let lowers: Vec<PathBuf> = (0..50).map(|n| dirs.make(&format!("{n}{}", "x".repeat(100)))).collect();
    let (upper, work, target) = (dirs.make("u"), dirs.make("w"), dirs.make("t"));
    let overlay = Overlay { lowers: &lowers, upper: &upper, work: &work, volatile: false, read_only: false };
    let error = mount_overlay_in_one_call(&overlay, &target).unwrap_err();
    assert!(error.to_string().contains("longer than a page"), "{error}");
    mount_overlay(&overlay, &target).unwrap();
}

#[test]
fn a_missing_layer_is_named() {
    let Some(dirs) = Dirs::new() else { return };
    let lowers = [dirs.make("l"), dirs.dir.path().join("missing")];
    let (upper, work, target) = (dirs.make("u"), dirs.make("w"), dirs.make("t"));
    let overlay = Overlay { lowers: &lowers, upper: &upper, work: &work, volatile: false, read_only: false };
    let error = mount_overlay(&overlay, &target).unwrap_err();
    assert!(error.to_string().contains("missing"), "{error}");
    assert!(!is_mounted(&target).unwrap());
}

#[test]
fn files_and_directories_are_bound() {
    let Some(dirs) = Dirs::new() else { return };
    let (source, target) = (dirs.make("s"), dirs.make("t"));
    std::fs::write(source.join("f"), "x").unwrap();
    mount::bind(&source, &target).unwrap();
    assert!(target.join("f").exists());
    mount::unmount(&target).unwrap();
    std::fs::write(target.join("file"), "").unwrap();
    mount::bind(&source.join("f"), &target.join("file")).unwrap();
    assert_eq!(std::fs::read_to_string(target.join("file")).unwrap(), "x");
    assert!(mount::unmount(&source).is_err());
}
