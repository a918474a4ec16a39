//! The text of one `.properties` file: Java's syntax, UTF-8 or else ISO-8859-1.

use std::path::Path;

use encoding_rs::{UTF_8, WINDOWS_1252};
use java_properties::{LineContent, PropertiesIter};

use super::SettingsError;
use super::file::{Properties, Property};

pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Properties, SettingsError> {
    let is_utf8 = std::str::from_utf8(bytes).is_ok();
    let encoding = if is_utf8 { UTF_8 } else { WINDOWS_1252 };
    let mut properties = Vec::new();
    for line in PropertiesIter::new_with_encoding(bytes, encoding) {
        let line = line.map_err(|error| SettingsError::Syntax {
            path: path.to_owned(),
            line: error.line_number().unwrap_or(0),
            what: error.to_string(),
        })?;
        let number = line.line_number();
        if let LineContent::KVPair(key, value) = line.consume_content() {
            properties.push(Property {
                key,
                value,
                line: number,
            });
        }
    }
    let note = (!is_utf8).then(|| {
        format!(
            "{} is not UTF-8: its text was read as ISO-8859-1",
            path.display()
        )
    });
    Ok(Properties { properties, note })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(bytes: &[u8]) -> Vec<(String, String, usize)> {
        let file = parse(Path::new("x"), bytes).unwrap();
        file.properties
            .into_iter()
            .map(|p| (p.key, p.value, p.line))
            .collect()
    }

    #[test]
    fn reads_java_syntax() {
        let text = "# comment\n! also\na=1\n  b : 2\nc 3\nlong = x\\\n   y\\tz\nk\\:v=\\u00e9\n";
        let expected = [
            ("a", "1", 3),
            ("b", "2", 4),
            ("c", "3", 5),
            ("long", "xy\tz", 6),
            ("k:v", "é", 8),
        ]
        .map(|(k, v, line)| (k.to_owned(), v.to_owned(), line));
        assert_eq!(pairs(text.as_bytes()), expected);
    }

    #[test]
    fn reads_utf8_and_falls_back_to_latin1() {
        assert_eq!(pairs("a=é订".as_bytes())[0].1, "é订");
        let file = parse(Path::new("x"), b"a=\xe9").unwrap();
        assert_eq!(file.properties[0].value, "é");
        assert!(file.note.is_some());
    }

    #[test]
    fn names_the_bad_line() {
        let error = parse(Path::new("f.properties"), b"a=1\nb=\\u00g0\n").unwrap_err();
        assert!(error.to_string().starts_with("f.properties:2: "), "{error}");
    }
}
