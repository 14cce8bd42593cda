//! Names for containers that were given none: a quality and a ship.

const QUALITIES: &[&str] = &[
    "able", "agile", "ardent", "bold", "brave", "breezy", "bright", "brisk", "calm", "candid", "cheerful",
    "clever", "cosmic", "daring", "deft", "eager", "early", "earnest", "fair", "fearless", "fleet",
    "gallant", "gentle", "glad", "golden", "happy", "hardy", "hearty", "honest", "humble", "jolly", "keen",
    "kind", "lively", "loyal", "lucky", "merry", "mighty", "modest", "neat", "nimble", "noble", "patient",
    "placid", "plucky", "polite", "proud", "quick", "quiet", "rapid", "ready", "robust", "serene", "sharp",
    "silent", "silver", "sincere", "smart", "snappy", "sober", "spry", "stable", "stalwart", "steady",
    "stout", "sturdy", "sunny", "swift", "tidy", "trusty", "upbeat", "valiant", "vivid", "warm", "wise",
    "witty", "worthy", "zesty",
];

const SHIPS: &[&str] = &[
    "argo",
    "bark",
    "beagle",
    "bounty",
    "brigantine",
    "caravel",
    "carrack",
    "catamaran",
    "clipper",
    "cog",
    "corvette",
    "curragh",
    "cutter",
    "cygnet",
    "dhow",
    "dinghy",
    "discovery",
    "dory",
    "endeavour",
    "endurance",
    "felucca",
    "ferry",
    "fram",
    "frigate",
    "galleon",
    "galley",
    "gondola",
    "hulk",
    "icebreaker",
    "jolle",
    "junk",
    "kayak",
    "keelboat",
    "ketch",
    "knarr",
    "kontiki",
    "lateen",
    "launch",
    "lightship",
    "longboat",
    "longship",
    "lorcha",
    "lugger",
    "mayflower",
    "nautilus",
    "nina",
    "outrigger",
    "packet",
    "pearl",
    "pilot",
    "pinnace",
    "pinta",
    "pram",
    "proa",
    "quinquereme",
    "raft",
    "resolution",
    "sampan",
    "schooner",
    "scow",
    "skiff",
    "skipjack",
    "sloop",
    "smack",
    "snow",
    "tartane",
    "tender",
    "trimaran",
    "trireme",
    "tug",
    "umiak",
    "vasa",
    "victory",
    "whaler",
    "wherry",
    "xebec",
    "yacht",
    "yawl",
    "zodiac",
];

/// A name like `brave_cutter`; with `attempt` above 0 a number is added, so that a free one is soon found.
pub(crate) fn generate(attempt: u32) -> String {
    let [a, b, c]: [u32; 3] = rand::random();
    let pick = |list: &'static [&'static str], n: u32| list[n as usize % list.len()];
    let name = format!("{}_{}", pick(QUALITIES, a), pick(SHIPS, b));
    if attempt == 0 { name } else { format!("{name}{}", c % 10u32.saturating_pow(attempt.min(6))) }
}

/// Whether `name` may name a container: `[a-zA-Z0-9][a-zA-Z0-9_.-]+`, Docker's rule.
pub(crate) fn is_valid(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
        && name.len() > 1
        && name.len() <= 255
        && bytes.all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_are_valid() {
        for attempt in 0..200 {
            let name = generate(attempt % 5);
            assert!(is_valid(&name), "{name}");
        }
    }

    #[test]
    fn names_that_could_be_paths_are_not() {
        for name in ["", "a", "/a", "../x", "a/b", "-a", "a b", "a\n"] {
            assert!(!is_valid(name), "{name:?}");
        }
    }
}
