//! What the HTTP port answers: JSON and a line end, in an envelope, as it is, or as an error.

use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::json;

/// An answer in JSON. Every handled outcome is status 200: tools take any other for a crash.
#[derive(Debug)]
pub(crate) struct Reply {
    json: String,
}

/// The usual form of an answer.
#[derive(Serialize)]
pub(crate) struct Envelope<T> {
    /// 0 when it was done, -1 when not.
    status: i32,
    /// Why it was not done, or what is worth knowing.
    message: String,
    /// What was asked for.
    data: Option<T>,
}

impl Reply {
    /// It was done.
    pub(crate) fn done(data: impl Serialize) -> Self {
        Self::enveloped(0, "", Some(data))
    }

    /// It was done, and there is something to say about it.
    pub(crate) fn done_with(message: impl Into<String>, data: Option<impl Serialize>) -> Self {
        Self::enveloped(0, message, data)
    }

    /// It was not done.
    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Self::enveloped(-1, message, None::<()>)
    }

    /// It was not done, or not all of it.
    pub(crate) fn refused_with(message: impl Into<String>, data: impl Serialize) -> Self {
        Self::enveloped(-1, message, Some(data))
    }

    /// Without an envelope.
    pub(crate) fn raw(data: impl Serialize) -> Self {
        let json = serde_json::to_string(&data).expect("our replies are always JSON");
        Self { json: json + "\n" }
    }

    /// It was not done, as actions say that answer without an envelope.
    pub(crate) fn error(message: impl Into<String>) -> Self {
        Self::raw(json!({ "error": message.into() }))
    }

    fn enveloped(status: i32, message: impl Into<String>, data: Option<impl Serialize>) -> Self {
        let message = message.into();
        Self::raw(Envelope {
            status,
            message,
            data,
        })
    }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        let headers = [(CONTENT_TYPE, "application/json")];
        (StatusCode::OK, headers, self.json).into_response()
    }
}
