//! The management interface of the metaserver: one POST per action, answered with one line.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use reqwest::{Client, Response, StatusCode};
use serde_json::Value;

use crate::cli::Metaserver;
use crate::output::Outcome;

/// Longest wait for a connection.
const CONNECT_WAIT: Duration = Duration::from_secs(2);
/// Longest wait for the answer: some actions talk to every broker of a subject.
const ANSWER_WAIT: Duration = Duration::from_secs(30);
/// Longest answer that is read: a list of every broker or route.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Runs `action`, prints what the metaserver answers, and tells whether it agreed.
///
/// # Errors
/// When there is no answer, or none of a metaserver.
pub(crate) async fn run(
    metaserver: &Metaserver,
    token: &str,
    action: &str,
    parameters: &[(&str, &str)],
) -> Result<Outcome> {
    let url = metaserver.url("/management");
    let form: Vec<_> = [("action", action)]
        .iter()
        .chain(parameters)
        .copied()
        .collect();
    // The metaserver is a neighbour: a proxy for the outside world does not lead to it.
    let http = Client::builder()
        .no_proxy()
        .connect_timeout(CONNECT_WAIT)
        .timeout(ANSWER_WAIT)
        .build()?;
    let request = http.post(&url).header("X-Api-Token", token).form(&form);
    let answer = request
        .send()
        .await
        .with_context(|| format!("{action} at {metaserver}"))?;
    let status = answer.status();
    let text = read(answer)
        .await
        .with_context(|| format!("{action} at {metaserver}"))?;
    let line = one_line(&text);
    match judge(status, &line) {
        Some(outcome) => {
            println!("{line}");
            Ok(outcome)
        }
        None => bail!("{action} at {metaserver}: status {status}: {line}"),
    }
}

async fn read(mut answer: Response) -> Result<String> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        body.extend_from_slice(&chunk);
        if body.len() > ANSWER_BYTES_MAX {
            bail!("the answer is over {ANSWER_BYTES_MAX} bytes");
        }
    }
    Ok(String::from_utf8_lossy(&body).into_owned())
}

/// The text without white space around it or line ends in it.
fn one_line(text: &str) -> String {
    text.trim().replace("\r\n", " ").replace(['\n', '\r'], " ")
}

/// Whether the metaserver agreed; `None` when this is no answer of a metaserver's action.
fn judge(status: StatusCode, line: &str) -> Option<Outcome> {
    let answer = serde_json::from_str::<Value>(line).ok();
    let is_no = match &answer {
        // Unknown actions are answered in plain text.
        None => true,
        Some(Value::Object(fields)) => {
            fields
                .get("status")
                .is_some_and(|status| status.as_i64() != Some(0))
                || fields.contains_key("error")
        }
        Some(_) => false,
    };
    match (status.is_success(), is_no) {
        (true, is_no) => Some(Outcome::done_if(!is_no)),
        (false, true) if answer.is_some() => Some(Outcome::Refused),
        (false, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_judged_by_their_content() {
        let ok = StatusCode::OK;
        for yes in [
            r#"{"status":0,"message":"","data":[]}"#,
            r#"[{"groupName":"g"}]"#,
            r#"{"data":{"name":"s"}}"#,
            "{}",
        ] {
            assert_eq!(judge(ok, yes), Some(Outcome::Done), "{yes}");
        }
        for no in [
            r#"{"status":-1,"message":"no","data":null}"#,
            r#"{"error":"exists","data":{}}"#,
            "unknown action",
            "",
        ] {
            assert_eq!(judge(ok, no), Some(Outcome::Refused), "{no}");
        }
    }

    #[test]
    fn other_status_codes_are_a_no_only_with_a_reason() {
        let no = r#"{"status":-1,"message":"no token","data":null}"#;
        assert_eq!(judge(StatusCode::UNAUTHORIZED, no), Some(Outcome::Refused));
        assert_eq!(judge(StatusCode::BAD_GATEWAY, "<html>"), None);
        assert_eq!(
            judge(StatusCode::INTERNAL_SERVER_ERROR, r#"{"status":0}"#),
            None
        );
    }

    #[test]
    fn answers_are_one_line() {
        assert_eq!(one_line(" {\n\"a\": 1\r\n}\n\n"), "{ \"a\": 1 }");
    }
}
