//! Columns that line up (pure).

/// Rows below a head, columns two blanks apart, without blanks at the end of a line. A column whose
/// head begins with `>` is flush right. One that is empty in every row is left out, its head too.
pub(super) fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> String {
    let is_right = head.map(|name| name.starts_with('>'));
    let head = head.map(|name| name.trim_start_matches('>'));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..N)
        .map(|column| match width(column) {
            None | Some(0) => 0,
            Some(width) => width.max(head[column].len()),
        })
        .collect();
    let line = |cells: &[&str]| {
        let mut line = String::new();
        for (column, cell) in cells.iter().enumerate().filter(|(column, _)| widths[*column] > 0) {
            let blanks = " ".repeat(widths[column].saturating_sub(cell.chars().count()));
            let (before, after) = if is_right[column] { (&*blanks, "") } else { ("", &*blanks) };
            line.extend([before, cell, after, "  "]);
        }
        line.trim_end().to_owned() + "\n"
    };
    let mut text = line(&head);
    for row in rows {
        text.push_str(&line(&row.each_ref().map(String::as_str)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::table;

    #[test]
    fn columns_line_up_and_empty_ones_are_left_out() {
        let row = |a: &str, b: &str, c: &str| [a, b, c].map(str::to_owned);
        assert_eq!(
            table(["A", "BB", ">C"], &[row("1", "", "x"), row("→→→", "", "yy")]),
            "A     C\n1     x\n→→→  yy\n"
        );
    }
}
