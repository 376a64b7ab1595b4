//! Tables for people, laid out by comfy-table. This module adds two guarantees: no word is broken, and no control
//! character reaches the terminal.

use std::io::stdout;
use std::iter::once;

use comfy_table::{Attribute, Cell, ColumnConstraint, ContentArrangement, presets};
use terminal_size::{Width, terminal_size_of};
use unicode_width::UnicodeWidthStr;

use super::colour;

/// Spaces between two columns.
const GAP: u16 = 2;
/// A longer cell is not wrapped into less than this.
const WRAPPED_WIDTH_MIN: usize = 24;

/// Rows under a heading. In a terminal, a table that is too wide is wrapped in its last column; if it does not fit even
/// then, each row is printed as a block of lines.
pub(super) struct Table<const N: usize> {
    heading: [&'static str; N],
    rows: Vec<[String; N]>,
    is_wrappable: bool,
}

impl<const N: usize> Table<N> {
    pub(super) fn new(heading: [&'static str; N]) -> Self {
        Self { heading, rows: Vec::new(), is_wrappable: true }
    }

    /// A table whose cells people copy, so that none is wrapped.
    pub(super) fn unwrapped(heading: [&'static str; N]) -> Self {
        Self { is_wrappable: false, ..Self::new(heading) }
    }

    pub(super) fn add(&mut self, row: [String; N]) {
        self.rows.push(row.map(|cell| printable(&cell)));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table as lines, as wide as the terminal allows, or without a limit if the standard output is no terminal.
    pub(super) fn render(&self) -> String {
        self.render_within(terminal_size_of(stdout()).map(|(Width(columns), _)| columns), colour::is_on())
    }

    fn render_within(&self, columns: Option<u16>, has_colours: bool) -> String {
        let mut table = comfy_table::Table::new();
        let cell = |(name, text): (&str, &String)| status_cell(name, text, has_colours);
        let row = |row: &[String; N]| self.heading.into_iter().zip(row).map(cell).collect::<Vec<_>>();
        table.set_header(self.heading.map(|name| heading_cell(name, has_colours)));
        table.add_rows(self.rows.iter().map(row));
        if let Some(columns) = columns {
            if self.width_min() > columns.into() {
                return self.render_blocks(has_colours);
            }
            table.set_width(columns).set_content_arrangement(ContentArrangement::Dynamic);
            for column in table.column_iter_mut().take(N - usize::from(self.is_wrappable)) {
                column.set_constraint(ColumnConstraint::ContentWidth);
            }
        }
        lines(table)
    }

    fn render_blocks(&self, has_colours: bool) -> String {
        let block = |row: &[String; N]| fields(self.heading.into_iter().zip(row), has_colours);
        self.rows.iter().map(block).collect::<Vec<_>>().join("\n")
    }

    /// The least width without a broken word.
    fn width_min(&self) -> usize {
        let width_min = |at: usize| {
            let cells = once(self.heading[at]).chain(self.rows.iter().map(|row| row[at].as_str()));
            let is_wrappable = self.is_wrappable && at + 1 == N;
            cells.map(|cell| if is_wrappable { wrapped_width_min(cell) } else { cell.width() }).max()
        };
        (0..N).filter_map(width_min).sum::<usize>() + (N - 1) * usize::from(GAP)
    }
}

fn wrapped_width_min(cell: &str) -> usize {
    let word = cell.split(' ').map(UnicodeWidthStr::width).max().unwrap_or(0);
    word.max(cell.width().min(WRAPPED_WIDTH_MIN))
}

/// Names and their values in two columns. Values are not wrapped, so that they can be copied.
pub(super) fn render_fields<K: AsRef<str>, V: AsRef<str>>(named: impl Iterator<Item = (K, V)>) -> String {
    fields(named, colour::is_on())
}

fn fields<K: AsRef<str>, V: AsRef<str>>(named: impl Iterator<Item = (K, V)>, has_colours: bool) -> String {
    let mut table = comfy_table::Table::new();
    table.add_rows(named.map(|(name, value)| {
        let value = status_cell(name.as_ref(), &printable(value.as_ref()), has_colours);
        [heading_cell(&printable(name.as_ref()), has_colours), value]
    }));
    lines(table)
}

fn heading_cell(name: &str, has_colours: bool) -> Cell {
    let cell = Cell::new(name);
    if has_colours { cell.add_attribute(Attribute::Bold) } else { cell }
}

fn status_cell(name: &str, text: &str, has_colours: bool) -> Cell {
    let colour = colour::of_status(text).filter(|_| has_colours && colour::is_status(name));
    match colour {
        Some(colour) => Cell::new(text).fg(colour),
        None => Cell::new(text),
    }
}

fn lines(mut table: comfy_table::Table) -> String {
    table.load_style(presets::NOTHING);
    // The cells have styles only if colours are wanted.
    table.enforce_styling().style_text_only();
    for column in table.column_iter_mut() {
        column.set_padding((0, GAP));
    }
    if let Some(last) = table.column_iter_mut().last() {
        last.set_padding((0, 0));
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// The text on one line without control characters, which a terminal would obey: it may come from a server of a stranger.
pub(super) fn printable(text: &str) -> String {
    text.replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table<3> {
        let mut table = Table::new(["ID", "LONG NAME", "WHY"]);
        table.add([
            "1".into(),
            "two words".into(),
            "451 4.7.1 greylisted, try again in a few minutes".into(),
        ]);
        table.add(["é22".into(), "世界".into(), String::new()]);
        table
    }

    #[test]
    fn columns_are_aligned_and_nothing_is_wrapped_outside_of_a_terminal() {
        assert_eq!(
            table().render_within(None, false),
            "ID   LONG NAME  WHY\n\
             1    two words  451 4.7.1 greylisted, try again in a few minutes\n\
             é22  世界\n"
        );
    }

    #[test]
    fn a_terminal_gets_no_longer_line_than_it_is_wide_and_no_broken_word() {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        for columns in 40..80 {
            let rendered = table().render_within(Some(columns), false);
            assert!(rendered.starts_with("ID   LONG NAME  WHY\n1    two words  451"), "{rendered}");
            assert!(rendered.lines().all(|line| line.width() <= columns.into()), "{columns}:\n{rendered}");
            assert_eq!(
                words(&rendered),
                words(&table().render_within(None, false)),
                "{columns}:\n{rendered}"
            );
        }
        let mut narrow = Table::new(["A", "B"]);
        narrow.add(["x".repeat(30), "1 2".into()]);
        narrow.add(["y".into(), "3".into()]);
        assert_eq!(
            narrow.render_within(Some(30), false),
            format!("A  {}\nB  1 2\n\nA  y\nB  3\n", "x".repeat(30))
        );
    }

    #[test]
    fn colours_change_nothing_but_the_colour_of_a_status_and_the_weight_of_the_heading() {
        let mut table = Table::new(["STATUS", "REPLY"]);
        table.add(["bounced".into(), "bounced by the other server".into()]);
        table.add(["other".into(), "x".into()]);
        let coloured = table.render_within(None, true);
        let status = "\u{1b}[38;5;1mbounced\u{1b}[39m";
        assert!(coloured.contains(status) && coloured.matches("\u{1b}[38").count() == 1, "{coloured:?}");
        assert!(coloured.starts_with("\u{1b}[1m"), "{coloured:?}");
        for columns in [None, Some(20), Some(5)] {
            let coloured = table.render_within(columns, true);
            assert_eq!(without_colours(&coloured), table.render_within(columns, false), "{coloured:?}");
        }
    }

    fn without_colours(text: &str) -> String {
        let mut parts = text.split('\u{1b}');
        let first = parts.next().unwrap().to_owned();
        parts.fold(first, |plain, part| plain + part.split_once('m').unwrap().1)
    }

    #[test]
    fn cells_that_are_copied_stay_on_one_line() {
        let mut records = Table::unwrapped(["NAME", "VALUE"]);
        records.add(["a.test".into(), "v=spf1 include:a.test ~all".into()]);
        assert_eq!(records.render_within(Some(34), false), records.render_within(None, false));
        let block = "NAME   a.test\nVALUE  v=spf1 include:a.test ~all\n";
        assert_eq!(records.render_within(Some(33), false), block);
    }

    #[test]
    fn control_characters_of_a_server_do_not_reach_the_terminal() {
        let mut table = Table::new(["A", "B"]);
        table.add(["\u{1b}[31m".into(), "x\r\ny\u{9b}2J".into()]);
        for columns in [None, Some(80), Some(5)] {
            let rendered = table.render_within(columns, false);
            assert!(!rendered.contains(|c: char| c.is_control() && c != '\n'), "{rendered:?}");
            assert_eq!(rendered.lines().count(), 2, "{rendered:?}");
        }
    }
}
