//! Settings as TOML: tables and dotted keys spell the same keys as a `.properties` file.

use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::SettingsError;
use super::file::{Properties, Property};

/// `[broker]` with `port = 1` and `broker.port = 1` both give the key `broker.port`. Strings,
/// numbers, switches and times are taken as they are written.
pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Properties, SettingsError> {
    let syntax = |line, what: String| SettingsError::Syntax {
        path: path.to_owned(),
        line,
        what,
    };
    let text = str::from_utf8(bytes).map_err(|error| {
        let line = line_at(bytes, error.valid_up_to());
        syntax(line, "TOML is UTF-8, this is not".to_owned())
    })?;
    let table = DeTable::parse(text).map_err(|error| {
        let line = error.span().map_or(0, |span| line_at(bytes, span.start));
        syntax(line, error.message().to_owned())
    })?;
    let mut properties = Vec::new();
    flatten("", table.get_ref(), &mut |key, value| {
        let line = line_at(bytes, value.span().start);
        let value = scalar(value.get_ref())
            .ok_or_else(|| syntax(line, format!("{key} is a list: a value is expected")))?;
        properties.push(Property { key, value, line });
        Ok(())
    })?;
    properties.sort_by_key(|property| property.line);
    Ok(Properties {
        properties,
        note: None,
    })
}

fn flatten(
    prefix: &str,
    table: &DeTable<'_>,
    take: &mut impl FnMut(String, &Spanned<DeValue<'_>>) -> Result<(), SettingsError>,
) -> Result<(), SettingsError> {
    for (key, value) in table {
        let key = format!("{prefix}{}", key.get_ref());
        match value.get_ref() {
            DeValue::Table(inner) => flatten(&format!("{key}."), inner, take)?,
            _ => take(key, value)?,
        }
    }
    Ok(())
}

fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => Some(decimal(number.as_str(), number.radix())),
        DeValue::Float(number) => Some(number.as_str().to_owned()),
        DeValue::Boolean(switch) => Some(switch.to_string()),
        DeValue::Datetime(time) => Some(time.to_string()),
        DeValue::Array(_) | DeValue::Table(_) => None,
    }
}

/// TOML also writes numbers as 0x10; settings know decimal ones. One too large to be any setting
/// stays as it is, to be refused by name.
fn decimal(digits: &str, radix: u32) -> String {
    i128::from_str_radix(digits, radix)
        .map_or_else(|_| digits.to_owned(), |number| number.to_string())
}

fn line_at(bytes: &[u8], offset: usize) -> usize {
    let before = &bytes[..offset.min(bytes.len())];
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn triples(text: &str) -> Vec<(String, String, usize)> {
        let file = parse(Path::new("x.toml"), text.as_bytes()).unwrap();
        file.properties
            .into_iter()
            .map(|p| (p.key, p.value, p.line))
            .collect()
    }

    #[test]
    fn tables_and_dotted_keys_are_the_same_keys() {
        let text = "# comment\nbroker.port = 20_881\nstore.root = 'C:\\data'\n\n[log.expired]\n\
                    delete.enable = true\n[sub_env_isolation_filter]\n\"rules_url\" = \"http://h\"\n";
        let expected = [
            ("broker.port", "20881", 2),
            ("store.root", "C:\\data", 3),
            ("log.expired.delete.enable", "true", 6),
            ("sub_env_isolation_filter.rules_url", "http://h", 8),
        ]
        .map(|(k, v, line)| (k.to_owned(), v.to_owned(), line));
        assert_eq!(triples(text), expected);
        assert_eq!(triples("a = 0x10")[0].1, "16");
    }

    #[test]
    fn names_the_bad_line() {
        for (text, line) in [
            ("a = 1\nb = \n", 2),
            ("a = 1\na = 2\n", 2),
            ("\nb = [1]", 2),
        ] {
            let error = parse(Path::new("f.toml"), text.as_bytes()).unwrap_err();
            let place = format!("f.toml:{line}: ");
            assert!(error.to_string().starts_with(&place), "{error}");
        }
        let error = parse(Path::new("f.toml"), b"\na = '\xe9'").unwrap_err();
        assert!(error.to_string().starts_with("f.toml:2: "), "{error}");
    }
}
