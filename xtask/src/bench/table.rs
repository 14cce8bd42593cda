//! Tables of measures with targets, as the benches of images and builds have them.

use std::fmt::Write as _;

/// One measure: a value of everyone, of the floor, and what is wanted of brig.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) name: String,
    /// In the peers' order; none where a peer cannot do it.
    pub(super) values: Vec<Option<f64>>,
    pub(super) floor: Option<f64>,
    pub(super) targets: Vec<Target>,
}

/// The most that brig's value may be.
#[derive(Debug, Clone, Copy)]
pub(super) enum Target {
    /// Of the value of the peer at this place.
    Peer(usize, f64),
    Floor(f64),
    Value(f64),
}

/// The head of the table.
pub(super) fn header(peers: &[&str]) -> String {
    let titles: String = peers.iter().map(|name| format!(" {name} |")).collect();
    let rule = "---:|".repeat(peers.len() + 3);
    format!(
        "| what |{titles} floor | {1} / {0} | {0} / floor | target |\n|---|{rule}---|\n",
        peers[0], peers[1]
    )
}

impl Row {
    pub(super) fn line(&self, peers: &[&str]) -> String {
        let number = |value: Option<f64>| {
            value.map_or(" - |".to_owned(), |v| {
                if v < 10.0 { format!(" {v:.2} |") } else { format!(" {v:.0} |") }
            })
        };
        let mut line = format!("| {} |", self.name);
        self.values.iter().for_each(|value| line += &number(*value));
        line += &number(self.floor);
        let own = self.values[0];
        let ratio = |above: Option<f64>, below: Option<f64>| match (above, below) {
            (Some(above), Some(below)) if below > 0.0 => format!(" {:.2} |", above / below),
            _ => " - |".to_owned(),
        };
        line += &ratio(self.values[1], own);
        line += &ratio(own, self.floor);
        let told: Vec<String> = self.targets.iter().filter_map(|target| self.judge(*target, peers)).collect();
        writeln!(line, " {} |", told.join("; ")).expect("writing to a String");
        line
    }

    fn judge(&self, target: Target, peers: &[&str]) -> Option<String> {
        let (most, told) = match target {
            Target::Peer(place, part) => {
                (self.values[place]? * part, format!("{part:.2} of {}", peers[place]))
            }
            Target::Floor(part) => (self.floor? * part, format!("{part:.2} of floor")),
            Target::Value(most) => (most, format!("{most}")),
        };
        let met = if self.values[0]? <= most { "met" } else { "**missed**" };
        Some(format!("{told}: {met}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_what_is_met() {
        let row = Row {
            name: "pull".into(),
            values: vec![Some(100.0), Some(400.0), None],
            floor: Some(90.0),
            targets: vec![Target::Peer(1, 1.0 / 3.0), Target::Floor(1.3), Target::Peer(2, 0.5)],
        };
        assert_eq!(
            row.line(&["brig", "dockerd", "containerd"]),
            "| pull | 100 | 400 | - | 90 | 4.00 | 1.11 | 0.33 of dockerd: met; 1.30 of floor: met |\n"
        );
        let row = Row { targets: vec![Target::Value(1.0)], ..row };
        assert!(row.line(&["brig", "dockerd", "containerd"]).contains("1: **missed**"));
    }
}
