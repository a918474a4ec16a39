//! The list of traps in `docs/traps.md`: every test it names exists, every trap has a test or a
//! reason.

use std::collections::BTreeSet;

use qmq_e2e::repository;

const LIST: &str = "docs/traps.md";
/// Cells of a row: id, trap, what we do, test or reason. Where nothing is done yet, the third is
/// empty.
const CELLS: usize = 4;
/// What begins a reason for having no test; the rest of the cell says which part, or why.
const REASONS: [&str; 2] = ["not yet: ", "does not apply: "];
/// Begins a list of functions that become a test for each kind of database.
const LIST_OF_TESTS: &str = "on_each_database! {";
/// Fewer rows mean that the table is not found any more, not that there are fewer traps.
const ROWS_MIN: usize = 100;

#[test]
fn every_trap_has_a_test_that_exists_or_a_reason() {
    let texts = repository::texts().unwrap();
    let (_, list) = texts.iter().find(|(path, _)| path == LIST).unwrap();
    let rust = texts.iter().filter(|(path, _)| path.ends_with(".rs"));
    let tests: BTreeSet<String> = rust.flat_map(|(path, text)| tests_of(path, text)).collect();
    let rows = rows(list);
    assert!(rows.len() >= ROWS_MIN, "only {} rows in {LIST}", rows.len());
    let problems = problems(&rows, &tests);
    assert!(problems.is_empty(), "{LIST}:\n{}", problems.join("\n"));
}

#[test]
fn notices_what_it_looks_for() {
    // A text to look through, no test of ours: what is ignored in it must not count.
    let source = "on_each_database! {\n    listed,\n}\n#[test]\n/// Why.\n#[should_panic]\nfn seen() {}\nfn no_test() {}\n\
                  #[tokio::test(start_paused = true)]\nasync fn waits() {}\n\
                  #[test]\n#[ignore = \"slow\"]\nfn never_runs() {}\n";
    let found = |path: &str| tests_of(path, source).collect::<Vec<_>>();
    assert_eq!(
        found("a/src/b/c.rs"),
        ["a::b::c::listed", "a::b::c::seen", "a::b::c::waits"]
    );
    assert_eq!(
        found("a/src/b/tests.rs"),
        ["a::b::listed", "a::b::seen", "a::b::waits"]
    );
    assert_eq!(found("a/src/lib.rs"), ["a::listed", "a::seen", "a::waits"]);
    assert_eq!(
        found("a/tests/it/main.rs"),
        ["a::it::listed", "a::it::seen", "a::it::waits"]
    );

    let tests: BTreeSet<String> = found("a/src/lib.rs").into_iter().collect();
    let good = "| Id | Trap | Here | Test |\n| --- | --- | --- | --- |\n\
                | W1 | t | h | `a::seen`, `a::waits` |\n| W2 | t | h | not yet: delays |\n\
                | W3 | t | | not yet: slaves |\n\
                | B1 | t | h | `a::seen`; does not apply: no slaves |\n";
    assert_eq!(rows(good).len(), 4);
    assert_eq!(problems(&rows(good), &tests), Vec::<String>::new());
    let bad = [
        ("| W1 | t | h | `a::gone` |", "a::gone"),
        ("| W1 | t | h | `a::b::seen` |", "is it a::seen"),
        ("| W1 | t | h | not yet: |", "neither"),
        ("| W1 | t | h | seen |", "neither"),
        ("| W1 | t |  | `a::seen` |", "empty cell"),
        ("| W1 |  | h | not yet: x |", "empty cell"),
        ("| W1 | t | `a::seen` |", "cells"),
        (
            "| W1 | t | h | `a::seen` |\n| W1 | t | h | `a::seen` |",
            "twice",
        ),
    ];
    for (list, expected) in bad {
        let problems = problems(&rows(list), &tests).join("\n");
        assert!(problems.contains(expected), "{list}: {problems:?}");
    }
}

/// The rows of the tables, by their cells. A row begins with an id: a capital letter and a number.
fn rows(list: &str) -> Vec<Vec<&str>> {
    let rows = list.lines().filter_map(cells);
    rows.filter(|cells| is_id(cells[0])).collect()
}

fn cells(line: &str) -> Option<Vec<&str>> {
    let line = line.trim().strip_prefix('|')?.strip_suffix('|')?;
    Some(line.split('|').map(str::trim).collect())
}

fn is_id(text: &str) -> bool {
    let number = text.strip_prefix(|letter: char| letter.is_ascii_uppercase());
    number.is_some_and(|number| number.parse::<u32>().is_ok())
}

fn problems(rows: &[Vec<&str>], tests: &BTreeSet<String>) -> Vec<String> {
    let mut ids = BTreeSet::new();
    let mut problems = Vec::new();
    for row in rows {
        let id = row[0];
        if !ids.insert(id) {
            problems.push(format!("{id} is there twice"));
        }
        let &[_, trap, here, last] = row.as_slice() else {
            problems.push(format!("{id} needs {CELLS} cells"));
            continue;
        };
        let named = tests_named(last);
        if trap.is_empty() || (here.is_empty() && !named.is_empty()) {
            problems.push(format!("{id} has an empty cell"));
        }
        let has_reason = REASONS.iter().any(|reason| {
            let rest = last.split_once(reason);
            rest.is_some_and(|(_, why)| why.chars().any(char::is_alphabetic))
        });
        if named.is_empty() && !has_reason {
            problems.push(format!("{id} has neither a test nor a reason"));
        }
        let missing = named.into_iter().filter(|name| !tests.contains(*name));
        problems.extend(missing.map(|name| {
            format!(
                "{id} names {name}, which does not exist{}",
                elsewhere(name, tests)
            )
        }));
    }
    problems
}

/// The code words of a cell that are paths.
fn tests_named(cell: &str) -> Vec<&str> {
    let code = cell.split('`').skip(1).step_by(2);
    code.filter(|word| word.contains("::")).collect()
}

/// Where a test of the same name is, for whoever moved it.
fn elsewhere(name: &str, tests: &BTreeSet<String>) -> String {
    let function = name.rsplit("::").next().unwrap_or(name);
    let same = |test: &&String| test.rsplit("::").next() == Some(function);
    match tests.iter().find(same) {
        Some(test) => format!("; is it {test}?"),
        None => String::new(),
    }
}

/// The tests of a file by crate, file and function. Those that are ignored never run.
fn tests_of(path: &str, text: &str) -> impl Iterator<Item = String> {
    let module = module_of(path);
    let (mut is_test, mut is_list) = (false, false);
    let mut names = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with(LIST_OF_TESTS) {
            is_list = true;
        } else if is_list {
            let name = line.strip_suffix(',');
            names.extend(name.map(|name| format!("{module}::{name}")));
            is_list = line != "}";
        } else if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_test = true;
        } else if line.starts_with("#[ignore") {
            is_test = false;
        } else if let Some(name) = function_of(line) {
            if is_test {
                names.push(format!("{module}::{name}"));
            }
            is_test = false;
        }
    }
    names.into_iter()
}

/// `broker/src/subscription/tests.rs` is `broker::subscription`, `broker/tests/it/acks.rs` is
/// `broker::it::acks`.
fn module_of(path: &str) -> String {
    let path = path.strip_suffix(".rs").unwrap_or(path);
    let parts: Vec<&str> = path.split('/').collect();
    let last = parts.len() - 1;
    let is_named = |(at, part): &(usize, &&str)| match **part {
        "src" | "tests" if *at == 1 => false,
        "lib" | "main" | "tests" if *at == last => false,
        _ => true,
    };
    let named = parts.iter().enumerate().filter(is_named);
    named.map(|(_, part)| *part).collect::<Vec<_>>().join("::")
}

/// The name of the function that a line begins, if it does.
fn function_of(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("async ").unwrap_or(line);
    let name = rest.strip_prefix("fn ")?;
    name.split(|c: char| !c.is_alphanumeric() && c != '_')
        .next()
}
