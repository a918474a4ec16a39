//! Messages as people and programs see them: one line of JSON each.

use std::io::Write;

use anyhow::{Context, Result};
use qmq_client::Message;
use serde_json::{Map, Value, json};

/// The content of a message.
pub(crate) fn to_json(message: &Message) -> Value {
    let properties: Map<String, Value> = message
        .properties
        .iter()
        .map(|(key, value)| (key.clone(), Value::from(value.as_str())))
        .collect();
    json!({
        "messageId": message.message_id,
        "subject": message.subject,
        "createTime": message.created.0,
        "tags": message.tags,
        "times": message.times(),
        "properties": properties,
    })
}

/// Prints a line that is out before this returns.
///
/// # Errors
/// When nobody reads any more.
pub(crate) fn print(line: &Value) -> Result<()> {
    let line = line.to_string();
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .context("cannot print")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line() {
        let mut message = Message {
            subject: "s".into(),
            ..Message::default()
        };
        message.set_property("text", "two\nlines");
        let line = to_json(&message).to_string();
        assert!(
            !line.contains('\n') && line.contains(r#""text":"two\nlines""#),
            "{line}"
        );
    }
}
