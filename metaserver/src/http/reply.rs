//! What the HTTP port answers: JSON and a line end, in an envelope, as it is, or as an error.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use futures_core::Stream;
use serde::Serialize;
use serde_json::json;
use tokio::sync::mpsc;

use crate::db::DbError;

/// An answer in JSON. Every handled outcome is status 200: tools take any other for a crash.
#[derive(Debug)]
pub(crate) struct Reply {
    body: Body,
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
        Self::of(json + "\n")
    }

    /// JSON and a line end that come in parts. An error cuts the answer off, so that nobody takes
    /// what came until then for all of it.
    pub(crate) fn parts(parts: mpsc::Receiver<Result<String, DbError>>) -> Self {
        Self::of(Body::from_stream(Parts(parts)))
    }

    fn of(body: impl Into<Body>) -> Self {
        Self { body: body.into() }
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
        (StatusCode::OK, headers, self.body).into_response()
    }
}

/// The parts of an answer as they come.
struct Parts(mpsc::Receiver<Result<String, DbError>>);

impl Stream for Parts {
    type Item = Result<String, DbError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context)
    }
}
