//! Tables for people: columns as wide as their widest cell, two spaces between them, a title each.

use std::{
    fmt::Write as _,
    io::{self, Write},
};

use crate::out::{Ink, Paint};

const GAP: &str = "  ";

/// Which end of a column its cells stand at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// A title and where its cells stand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    title: &'static str,
    align: Align,
}

/// A column of text.
pub(crate) const fn left(title: &'static str) -> Column {
    Column { title, align: Align::Left }
}

/// A column of numbers.
pub(crate) const fn right(title: &'static str) -> Column {
    Column { title, align: Align::Right }
}

/// What stands in a row of one column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    text: String,
    ink: Ink,
}

impl Cell {
    pub(crate) fn inked(ink: Ink, text: impl Into<String>) -> Self {
        Self { text: text.into(), ink }
    }
}

impl<T: ToString> From<T> for Cell {
    fn from(value: T) -> Self {
        Self { text: value.to_string(), ink: Ink::Plain }
    }
}

/// A share as a number of percent, or a dash where there is nothing to share.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    if whole == 0 { "-".to_owned() } else { format!("{:.1}", 100.0 * part as f64 / whole as f64) }
}

/// Writes a table. `rows` is asked twice, for the widths and for the cells, so that a table of a million
/// rows is never held as text.
pub(crate) fn write<const N: usize, R>(
    out: &mut dyn Write,
    paint: Paint,
    columns: [Column; N],
    rows: impl Fn() -> R,
) -> io::Result<()>
where
    R: Iterator<Item = [Cell; N]>,
{
    let widths = widths(&columns, rows());
    let titles = columns.map(|column| Cell::inked(Ink::Bold, column.title));
    for row in std::iter::once(titles).chain(rows()) {
        writeln!(out, "{}", line(paint, &columns, &widths, &row))?;
    }
    Ok(())
}

fn widths<const N: usize>(columns: &[Column; N], rows: impl Iterator<Item = [Cell; N]>) -> [usize; N] {
    let mut widths = columns.map(|column| column.title.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(&row) {
            *width = cell.text.chars().count().max(*width);
        }
    }
    widths
}

/// One row, without spaces at its end.
fn line<const N: usize>(paint: Paint, columns: &[Column; N], widths: &[usize; N], row: &[Cell; N]) -> String {
    let mut line = String::new();
    let mut gap = 0;
    for ((cell, width), column) in row.iter().zip(widths).zip(columns) {
        let padding = width - cell.text.chars().count();
        if column.align == Align::Right {
            gap += padding;
        }
        // Writing into a string cannot fail.
        let _ = write!(line, "{:gap$}{}", "", paint.ink(cell.ink, &cell.text));
        gap = GAP.len() + if column.align == Align::Left { padding } else { 0 };
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(columns: [Column; 2], rows: &[[&str; 2]], expect: &str) {
        let mut bytes = Vec::new();
        let cells = || rows.iter().map(|row| row.map(Cell::from));
        write(&mut bytes, Paint::OFF, columns, cells).unwrap();
        assert_eq!(String::from_utf8(bytes).unwrap(), expect);
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        check(
            [right("MODID"), left("HOST")],
            &[["-7", "10.0.0.1:80"], ["1234567", "10.0.0.2:8080"]],
            "  MODID  HOST\n     -7  10.0.0.1:80\n1234567  10.0.0.2:8080\n",
        );
        check(
            [left("HOST"), right("N")],
            &[["a", "1"], ["abcdef", "22"]],
            "HOST     N\na        1\nabcdef  22\n",
        );
    }

    #[test]
    fn a_table_without_rows_has_its_titles() {
        check([left("A"), left("B")], &[], "A  B\n");
    }
}
