//! Tables for people, and the same rows as JSON for programs.

use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde_json::{Map, Value};

/// One column: its heading and its name in JSON.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    pub(crate) heading: &'static str,
    pub(crate) name: &'static str,
}

/// Rows of values. People see times and lists as text, programs get the values themselves.
#[derive(Debug)]
pub(crate) struct Rows {
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
}

/// One value.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    text: String,
    value: Value,
}

impl Cell {
    /// A value that people see as `text`.
    pub(crate) fn shown(text: impl Into<String>, value: impl Into<Value>) -> Self {
        Self {
            text: text.into(),
            value: value.into(),
        }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::shown(text, text)
    }
}

impl From<i64> for Cell {
    fn from(number: i64) -> Self {
        Self::shown(number.to_string(), number)
    }
}

impl Rows {
    /// No rows yet.
    pub(crate) fn new(columns: &[(&'static str, &'static str)]) -> Self {
        let column = |(heading, name): &(&'static str, &'static str)| Column { heading, name };
        Self {
            columns: columns.iter().map(column).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row with a value for each column.
    pub(crate) fn push(&mut self, row: Vec<Cell>) {
        assert_eq!(row.len(), self.columns.len(), "a value for each column");
        self.rows.push(row);
    }

    /// The table, with a line end behind each row.
    pub(crate) fn text(&self) -> String {
        let mut table = Table::new();
        table.load_style(NOTHING);
        table.set_header(self.columns.iter().map(|column| column.heading));
        for row in &self.rows {
            table.add_row(row.iter().map(|cell| one_line(&cell.text)));
        }
        let lines = table.lines();
        lines.map(|line| line.trim().to_owned() + "\n").collect()
    }

    /// An array with an object for each row.
    pub(crate) fn json(&self) -> Value {
        let object = |row: &Vec<Cell>| {
            let names = self.columns.iter().map(|column| column.name.to_owned());
            let values = row.iter().map(|cell| cell.value.clone());
            Value::Object(names.zip(values).collect::<Map<_, _>>())
        };
        self.rows.iter().map(object).collect()
    }
}

/// Names come from outside: a row stays a row, and a terminal is not told to do anything.
fn one_line(text: &str) -> String {
    text.replace(|c: char| c.is_control(), "?")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_programs_get_values() {
        let mut rows = Rows::new(&[("NAME", "name"), ("COUNT", "count")]);
        rows.push(vec!["order.changed".into(), 7.into()]);
        rows.push(vec!["a\n\u{1b}[2J".into(), Cell::shown("many", 12)]);
        let text = rows.text();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        let at = lines[0].find("COUNT").unwrap();
        assert_eq!(lines[1].find('7'), Some(at), "{text}");
        assert_eq!(lines[2].find("many"), Some(at), "{text}");
        assert!(!text.contains('\u{1b}'));
        assert_eq!(rows.json()[1]["count"], 12);
        assert_eq!(rows.json()[0]["name"], "order.changed");
    }
}
