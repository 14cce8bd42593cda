//! `images --tree`: each image with the platforms that its name leads to, those that are not here too.
//!
//! ```text
//!                                                   Info ->  U In Use
//! IMAGE                   ID             DISK USAGE   CONTENT SIZE   EXTRA
//! debian:12               0123456789ab        276MB         69.8MB   U
//! ├─ linux/amd64          aaaaaaaaaaaa        276MB         69.8MB   U
//! └─ linux/arm64          bbbbbbbbbbbb           0B             0B
//! ```

use crate::error::Result;
use crate::terminal;
use crate::text::printable;
use crate::units;
use gotemplate::Value;
use std::io::IsTerminal as _;

const SPACING: &str = "   ";
/// The columns behind the name: heading, width, and whether it is numbers.
const COLUMNS: [(&str, usize, bool); 4] =
    [("ID", 12, false), ("DISK USAGE", 10, true), ("CONTENT SIZE", 12, true), ("EXTRA", 5, false)];
/// Columns of a terminal below this are not counted with.
const NARROWEST: usize = 20;
/// The least that is left to names, before columns are left out for them.
const LEAST_NAME: usize = 12;

/// A line.
#[derive(Debug)]
struct Line {
    name: String,
    /// What is in the other columns; none for a further name of the same image.
    cells: Option<[String; 4]>,
}

/// Prints the tree of `images`, as `GET /images/json?manifests=1` lists them.
pub(crate) fn print(images: &[Value]) -> Result<()> {
    let is_terminal = std::io::stdout().is_terminal();
    let width = terminal::size().filter(|_| is_terminal).map(|(_, columns)| usize::from(columns));
    terminal::print(&render(images, width.map(|width| width.max(NARROWEST))))
}

/// The tree in `width` columns; as wide as it is where there is no terminal.
fn render(images: &[Value], width: Option<usize>) -> String {
    let mut order: Vec<&Value> = images.iter().collect();
    order.sort_by_key(|image| std::cmp::Reverse(image.get("Created").map_or(0, Value::int)));
    let groups: Vec<Vec<Line>> = order.into_iter().map(lines).collect();
    let longest = groups.iter().flatten().map(|line| line.name.chars().count()).max().unwrap_or(0);
    let longest = longest.max("IMAGE".len());
    // Columns are left out from the right until there is room for names.
    let taken =
        |shown: usize| COLUMNS[..shown].iter().map(|(_, width, _)| width + SPACING.len()).sum::<usize>();
    let room = |shown: usize| width.map_or(longest, |width| width.saturating_sub(taken(shown)));
    let shown = (0..=COLUMNS.len()).rev().find(|shown| room(*shown) >= LEAST_NAME.min(longest)).unwrap_or(0);
    let name_width = room(shown).min(longest);

    let mut out = String::new();
    if shown == COLUMNS.len() {
        out += &pad("Info ->  U In Use", name_width + taken(shown), true);
        out.push('\n');
    }
    let mut put = |name: &str, cells: Option<&[&str]>| {
        let mut line = pad(&units::ellipsis(name, name_width), name_width, false);
        for (cell, (_, width, is_number)) in cells.into_iter().flatten().zip(&COLUMNS[..shown]) {
            line += SPACING;
            line += &pad(cell, *width, *is_number);
        }
        out.push_str(line.trim_end());
        out.push('\n');
    };
    put("IMAGE", Some(&COLUMNS.map(|(heading, ..)| heading)));
    for (n, group) in groups.iter().enumerate() {
        if n > 0 {
            put("", None);
        }
        for line in group {
            let cells = line.cells.as_ref().map(|cells| cells.each_ref().map(String::as_str));
            put(&line.name, cells.as_ref().map(|cells| &cells[..]));
        }
    }
    out
}

/// The lines of one image: its names, then its platforms.
fn lines(image: &Value) -> Vec<Line> {
    let manifests = image.get("Manifests").map_or(&[][..], Value::items);
    let platforms: Vec<&Value> =
        manifests.iter().filter(|manifest| manifest.text_at(&["Kind"]) == "image").collect();
    let number = |value: &Value, path: &[&str]| value.at(path).map_or(0, Value::int);
    let is_used = |manifest: &Value| {
        manifest.at(&["ImageData", "Containers"]).is_some_and(|list| !list.items().is_empty())
    };
    let cells = |id: &str, disk: i64, content: i64, used: bool| {
        let size = |bytes: i64| units::human_size(bytes as f64, 3);
        let extra = if used { "U" } else { "" };
        [units::short_id(id), size(disk), size(content), extra.to_string()]
    };
    let content = platforms.iter().map(|manifest| number(manifest, &["Size", "Content"])).sum();
    let used = number(image, &["Containers"]) > 0 || platforms.iter().any(|manifest| is_used(manifest));
    let own = cells(image.text_at(&["Id"]), number(image, &["Size"]), content, used);

    let tags = image.get("RepoTags").map_or(&[][..], Value::items);
    let mut names: Vec<String> =
        tags.iter().map(Value::text).filter(|tag| !tag.starts_with("<none>")).map(printable).collect();
    if names.is_empty() {
        names.push("<untagged>".into());
    }
    let last = names.len() - 1;
    let mut lines: Vec<Line> = names.into_iter().map(|name| Line { name, cells: None }).collect();
    lines[last].cells = Some(own);
    for (n, manifest) in platforms.iter().enumerate() {
        let branch = if n + 1 == platforms.len() { "└─" } else { "├─" };
        let part = |name: &str| printable(manifest.text_at(&["ImageData", "Platform", name]));
        let (os, architecture, variant) = (part("os"), part("architecture"), part("variant"));
        let variant = if variant.is_empty() { variant } else { format!("/{variant}") };
        lines.push(Line {
            name: format!("{branch} {os}/{architecture}{variant}"),
            cells: Some(cells(
                manifest.text_at(&["ID"]),
                number(manifest, &["Size", "Total"]),
                number(manifest, &["Size", "Content"]),
                is_used(manifest),
            )),
        });
    }
    lines
}

fn pad(text: &str, width: usize, is_right: bool) -> String {
    if is_right { format!("{text:>width$}") } else { format!("{text:<width$}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = r#"[
        {"Id": "sha256:0123456789abcdef", "RepoTags": ["a:1", "registry.example/b:2"], "Created": 1, "Size": 276000000,
         "Containers": -1, "Manifests": [
            {"ID": "sha256:aaaaaaaaaaaaaaaa", "Kind": "image", "Size": {"Content": 69800000, "Total": 276000000},
             "ImageData": {"Platform": {"os": "linux", "architecture": "amd64"}, "Containers": ["x"]}},
            {"ID": "sha256:bbbbbbbbbbbbbbbb", "Kind": "image", "Size": {"Content": 0, "Total": 0},
             "ImageData": {"Platform": {"os": "linux", "architecture": "arm64", "variant": "v8"}, "Containers": []}},
            {"ID": "sha256:cccccccccccccccc", "Kind": "attestation", "Size": {"Content": 5, "Total": 5}}]},
        {"Id": "sha256:1123456789abcdef", "RepoTags": [], "Created": 2, "Size": 12, "Manifests": []}]"#;

    fn check(width: Option<usize>, expected: &str) {
        let images: Vec<Value> = serde_json::from_str(LIST).unwrap();
        assert_eq!(render(&images, width), expected, "{width:?}");
    }

    #[test]
    fn platforms_hang_below_their_image() {
        let whole = format!("{:>71}\n", "Info ->  U In Use")
            + "\
IMAGE                  ID             DISK USAGE   CONTENT SIZE   EXTRA
<untagged>             1123456789ab          12B             0B

a:1
registry.example/b:2   0123456789ab        276MB         69.8MB   U
├─ linux/amd64         aaaaaaaaaaaa        276MB         69.8MB   U
└─ linux/arm64/v8      bbbbbbbbbbbb           0B             0B
";
        check(None, &whole);
        check(Some(200), &whole);
        check(
            Some(30),
            "\
IMAGE             ID
<untagged>        1123456789ab

a:1
registry.examp…   0123456789ab
├─ linux/amd64    aaaaaaaaaaaa
└─ linux/arm64…   bbbbbbbbbbbb
",
        );
        assert_eq!(render(&[], None).lines().count(), 2);
    }
}
