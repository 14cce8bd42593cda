//! Every target on its seeds, and on a fixed number of changes of them, in every run of the tests. What `cargo xtask fuzz`
//! once found is among the seeds.

use fuzz::{Mutator, Random, TARGETS, read_all, seeds_of};

/// Changes of each seed.
const CHANGES: usize = 40;

#[test]
fn no_input_makes_a_target_panic() {
    for target in TARGETS {
        let seeds = read_all(&seeds_of(target)).unwrap();
        assert!(!seeds.is_empty(), "{} has no seeds", target.name);
        let mutator = Mutator::new(seeds.iter().map(|(_, bytes)| bytes.as_slice()));
        let mut random = Random::new(0x2545_f491_4f6c_dd1d);
        for (index, (path, seed)) in seeds.iter().enumerate() {
            // The name of what runs stands in the output of a test that fails.
            println!("{}: {}", target.name, path.display());
            (target.run)(seed);
            let (_, other) = &seeds[(index + 1) % seeds.len()];
            for round in 0..CHANGES {
                let changed = mutator.change(seed, other, &mut random);
                println!("change {round} of {}", path.display());
                (target.run)(&changed);
            }
        }
    }
}

#[test]
fn every_directory_of_seeds_has_a_target() {
    let all = seeds_of(&TARGETS[0]);
    for entry in std::fs::read_dir(all.parent().unwrap()).unwrap() {
        let name = entry.unwrap().file_name();
        assert!(TARGETS.iter().any(|t| *t.name == *name), "fuzz/seeds/{} has no target", name.display());
    }
}
