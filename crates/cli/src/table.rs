//! Aligning columns of text the way Docker's tables are aligned: cells end in a tab, columns are at least ten wide
//! and three apart, and a column spans only consecutive lines that have it.

/// Least width of a column, spaces included.
const MIN_WIDTH: usize = 10;
/// Spaces after the widest cell.
const PADDING: usize = 3;

/// Replaces the tabs of `text` by spaces. The text after a line's last tab belongs to no column.
pub(crate) fn align(text: &str) -> String {
    align_with(text, MIN_WIDTH, PADDING)
}

/// [`align`] with other widths.
pub(crate) fn align_with(text: &str, min_width: usize, padding: usize) -> String {
    let lines: Vec<Vec<&str>> = text.split('\n').map(|line| line.split('\t').collect()).collect();
    let mut widths: Vec<Vec<usize>> = lines.iter().map(|cells| vec![0; cells.len()]).collect();
    for (row, cells) in lines.iter().enumerate() {
        for column in 0..cells.len().saturating_sub(1) {
            if widths[row][column] > 0 {
                continue;
            }
            // The block: this line and the following ones that have a cell in this column too.
            let block = lines[row..].iter().take_while(|line| line.len() > column + 1);
            let block_len = block.clone().count();
            let widest = block.map(|line| line[column].chars().count() + padding).max().unwrap_or(0);
            for widths in &mut widths[row..row + block_len] {
                widths[column] = widest.max(min_width);
            }
        }
    }
    let mut out = String::with_capacity(text.len() * 2);
    for (row, cells) in lines.iter().enumerate() {
        if row > 0 {
            out.push('\n');
        }
        for (column, cell) in cells.iter().enumerate() {
            out.push_str(cell);
            if column + 1 < cells.len() {
                let fill = widths[row][column].saturating_sub(cell.chars().count());
                out.extend(std::iter::repeat_n(' ', fill));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let text = "REPOSITORY\tTAG\tSIZE\nbusybox\tlatest\t1.98MB\n";
        assert_eq!(align(text), "REPOSITORY   TAG       SIZE\nbusybox      latest    1.98MB\n");
    }

    #[test]
    fn an_empty_last_cell_leaves_no_trace() {
        assert_eq!(align("A\tB\nx\t\n"), "A         B\nx         \n");
    }

    #[test]
    fn a_line_without_tabs_ends_a_block() {
        assert_eq!(align("aaaaaaaaaaaa\tb\nplain\nc\td"), "aaaaaaaaaaaa   b\nplain\nc         d");
    }
}
