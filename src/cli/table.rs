//! Tables for people, and times in their words.

use crate::mail::Timestamp;

/// Characters of a cell that are shown, the last one's excepted.
const CELL_CHARS_MAX: usize = 48;

/// Rows under a heading. The last column is as long as it likes.
pub(super) struct Table<const N: usize> {
    heading: [&'static str; N],
    rows: Vec<[String; N]>,
    cell_chars_max: usize,
}

impl<const N: usize> Table<N> {
    pub(super) fn new(heading: [&'static str; N]) -> Self {
        Self { heading, rows: Vec::new(), cell_chars_max: CELL_CHARS_MAX }
    }

    /// A table whose cells are to be copied, so none is cut.
    pub(super) fn whole(heading: [&'static str; N]) -> Self {
        Self { cell_chars_max: usize::MAX, ..Self::new(heading) }
    }

    pub(super) fn add(&mut self, row: [String; N]) {
        self.rows.push(row);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table as lines.
    pub(super) fn render(&self) -> String {
        let heading = self.heading.map(str::to_owned);
        let rows: Vec<[String; N]> =
            std::iter::once(&heading).chain(&self.rows).map(|row| self.fit(row)).collect();
        let mut widths = [0; N];
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let line = |row: &[String; N]| {
            let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
        };
        rows.iter().map(line).collect()
    }

    /// Without control characters, which a terminal might obey: cells hold what strangers' servers said.
    fn fit(&self, row: &[String; N]) -> [String; N] {
        std::array::from_fn(|at| {
            let limit = if at + 1 == N { usize::MAX } else { self.cell_chars_max };
            row[at].chars().map(|c| if c.is_control() { ' ' } else { c }).take(limit).collect()
        })
    }
}

/// Like `in 5 m` or `2 h ago`.
pub(super) fn relative(at: Timestamp, now: Timestamp) -> String {
    let seconds = at.as_second() - now.as_second();
    let rough = match seconds.unsigned_abs() {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds @ 60..3600 => format!("{} m", seconds / 60),
        seconds @ 3600..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} d", seconds / 86_400),
    };
    if seconds > 0 { format!("in {rough}") } else { format!("{rough} ago") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_only_the_last_is_long() {
        let mut table = Table::new(["A", "LONG", "C"]);
        table.add(["1".into(), "x".repeat(60), "y".repeat(60)]);
        table.add(["é22".into(), "\u{1b}[31m".into(), String::new()]);
        let text = table.render();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], format!("A    {:<48}  C", "LONG"));
        assert_eq!(lines[1], format!("1    {}  {}", "x".repeat(48), "y".repeat(60)));
        assert_eq!(lines[2], "é22   [31m");
        let mut whole = Table::whole(["A", "B"]);
        whole.add(["x".repeat(60), "y".into()]);
        assert!(whole.render().ends_with(&format!("{}  y\n", "x".repeat(60))));
    }

    #[test]
    fn times_are_told_from_now() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        for (offset, text) in
            [(0, "0 s ago"), (-59, "59 s ago"), (300, "in 5 m"), (-7200, "2 h ago"), (259_200, "in 3 d")]
        {
            assert_eq!(relative(Timestamp::from_second(1_000_000 + offset).unwrap(), now), text);
        }
    }
}
