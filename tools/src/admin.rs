//! The management interface of the metaserver: one POST per action, answered with one line; and how
//! servers are asked over HTTP at all.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use serde_json::Value;

use crate::cli::Metaserver;
use crate::output::Outcome;

/// Header with the token that servers ask for.
pub(crate) const TOKEN: &str = "X-Api-Token";
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
    let (outcome, line) = ask(metaserver, token, action, parameters).await?;
    println!("{line}");
    Ok(outcome)
}

/// Runs `action`; whether the metaserver agreed, and its answer on one line.
///
/// # Errors
/// When there is no answer, or none of a metaserver.
pub(crate) async fn ask(
    metaserver: &Metaserver,
    token: &str,
    action: &str,
    parameters: &[(&str, &str)],
) -> Result<(Outcome, String)> {
    let url = metaserver.url("/management");
    let form: Vec<_> = [("action", action)]
        .iter()
        .chain(parameters)
        .copied()
        .collect();
    let request = http()?.post(&url).header(TOKEN, token).form(&form);
    let (status, text) = answer_to(request)
        .await
        .with_context(|| format!("{action} at {metaserver}"))?;
    let line = one_line(&text);
    match judge(status, &line) {
        Some(outcome) => Ok((outcome, line)),
        None => bail!("{action} at {metaserver}: status {status}: {line}"),
    }
}

/// Asks servers of the cluster. They are neighbours: a proxy for the outside world does not lead to
/// them.
///
/// # Errors
/// When this machine cannot.
pub(crate) fn http() -> Result<Client> {
    let builder = Client::builder().no_proxy();
    let builder = builder.connect_timeout(CONNECT_WAIT).timeout(ANSWER_WAIT);
    Ok(builder.build()?)
}

/// Status and text of an answer.
///
/// # Errors
/// When there is none, or it is longer than any of ours.
pub(crate) async fn answer_to(request: RequestBuilder) -> Result<(StatusCode, String)> {
    let answer = request.send().await?;
    Ok((answer.status(), read(answer).await?))
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
