//! "did you mean".

/// The candidate nearest to `word`, when it is near enough to be a slip of the finger: Docker's rule, a distance of at most 3.
pub fn suggest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    const MAX_DISTANCE: usize = 3;
    const MAX_WORD: usize = 64;
    if word.chars().count() > MAX_WORD {
        return None;
    }
    let lower = word.to_lowercase();
    let mut best: Option<(usize, &str)> = None;
    for candidate in candidates {
        if candidate.len() > MAX_WORD {
            continue;
        }
        let d = distance(&lower, &candidate.to_lowercase());
        if d < MAX_DISTANCE && d < candidate.chars().count() && best.is_none_or(|(b, _)| d < b) {
            best = Some((d, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let above = row[j + 1];
            let change = diagonal + usize::from(ca != *cb);
            row[j + 1] = change.min(above + 1).min(row[j] + 1);
            diagonal = above;
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_found() {
        let check = |word: &str, want: Option<&str>| {
            assert_eq!(suggest(word, ["from", "run", "copy"]), want, "{word}")
        };
        check("FRM", Some("from"));
        check("ruin", Some("run"));
        check("cpoy", Some("copy"));
        check("entirely", None);
    }
}
