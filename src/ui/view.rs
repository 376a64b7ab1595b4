//! What a page answers.

use axum::response::Response;
use hyper::StatusCode;
use maud::Markup;
use serde::Deserialize;

use crate::api::ApiError;

/// Octets of an error of the API.
const ERROR_OCTETS_MAX: usize = 256 * 1024;

/// The answer of a page, or why there is none.
pub type Outcome = Result<View, Problem>;

/// The answer of a page.
pub enum View {
    /// A page in its frame.
    Page {
        /// The title of the window.
        title: String,
        /// The content of `<main>`.
        body: Markup,
    },
    /// A page with a form that was refused, with the status of the refusal.
    Refused {
        /// The status.
        status: StatusCode,
        /// The title of the window.
        title: String,
        /// The content of `<main>`.
        body: Markup,
    },
    /// Another page, after a change. The note is shown there once.
    Redirect {
        /// A path that begins with `/ui`.
        to: String,
        /// What happened.
        note: Option<String>,
    },
    /// The sign-in page, after a session ended.
    SignedOut,
    /// A file to download.
    File {
        /// Its media type.
        media_type: &'static str,
        /// Its name.
        name: String,
        /// Its content.
        octets: Vec<u8>,
    },
    /// A style sheet.
    Style(String),
    /// HTML of a message, for a frame without rights.
    Foreign(String),
    /// Another response of the API, with the headers of the pages: a stream, or a file of any size.
    Passed(Response),
}

impl View {
    /// A page.
    pub fn page(title: impl Into<String>, body: Markup) -> Outcome {
        Ok(Self::Page { title: title.into(), body })
    }

    /// The page of a form again, if a problem refused it.
    pub fn form(title: impl Into<String>, problem: Option<&Problem>, body: Markup) -> Outcome {
        let title = title.into();
        Ok(match problem {
            Some(problem) => Self::Refused { status: problem.status, title, body },
            None => Self::Page { title, body },
        })
    }

    /// Another page, with a note.
    pub fn redirect(to: impl Into<String>, note: impl Into<String>) -> Outcome {
        Ok(Self::Redirect { to: to.into(), note: Some(note.into()) })
    }
}

/// Why a page or a change is refused, as the API says it.
#[derive(Debug, Clone)]
pub struct Problem {
    /// The status of the answer.
    pub status: StatusCode,
    /// The stable code.
    pub code: String,
    /// The reason.
    pub message: String,
    /// What to do.
    pub hint: String,
    /// The request in the log.
    pub request_id: Option<Box<str>>,
    /// Invalid fields, with their paths.
    pub fields: Vec<ProblemField>,
}

/// An invalid field.
#[derive(Debug, Clone, Deserialize)]
pub struct ProblemField {
    /// Its path.
    #[serde(alias = "field")]
    pub path: String,
    /// What is wrong.
    pub message: String,
}

impl From<ApiError> for Problem {
    fn from(error: ApiError) -> Self {
        let status = error.status();
        if let Some(cause) = &error.cause {
            tracing::error!(%cause, "a session was not read or changed");
        }
        Self::new(status, error.refusal.code.as_str(), error.refusal.message, error.refusal.hint)
    }
}

impl Problem {
    /// A problem of the pages themselves.
    pub fn new(status: StatusCode, code: &str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            status,
            code: code.to_owned(),
            message: message.into(),
            hint: hint.into(),
            request_id: None,
            fields: Vec::new(),
        }
    }

    /// There is no such page, or it is not for this session.
    pub fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", "there is no such page", "go on with the overview")
    }

    /// A form without a known action.
    pub fn no_action() -> Self {
        let hint = "open the page again, then repeat the change";
        Self::new(StatusCode::BAD_REQUEST, "invalid", "the form names no action", hint)
    }

    /// A deletion whose name was not typed.
    pub fn not_confirmed(name: &str) -> Self {
        let message = format!("nothing was deleted: the name that was typed is not {name}");
        let hint = format!("type {name} in the field, then delete again");
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "not_confirmed", message, hint)
    }

    /// Whether other values in the form can mend it, so that the form is shown again.
    pub fn is_of_form(&self) -> bool {
        use StatusCode as S;
        [S::BAD_REQUEST, S::FORBIDDEN, S::CONFLICT, S::UNPROCESSABLE_ENTITY].contains(&self.status)
    }

    /// Of a response of the API that is an error.
    pub async fn read(response: Response) -> Self {
        let (head, body) = response.into_parts();
        let octets = axum::body::to_bytes(body, ERROR_OCTETS_MAX).await.unwrap_or_default();
        Self::of(head.status, &octets)
    }

    /// Of the body of an error of the API.
    pub fn of(status: StatusCode, body: &[u8]) -> Self {
        #[derive(Deserialize)]
        struct Envelope {
            error: Body,
        }
        #[derive(Deserialize)]
        struct Body {
            code: String,
            message: String,
            hint: String,
            request_id: Option<Box<str>>,
            #[serde(default)]
            errors: Vec<ProblemField>,
        }
        match serde_json::from_slice::<Envelope>(body) {
            Ok(Envelope { error: Body { code, message, hint, request_id, errors } }) => {
                Self { status, code, message, hint, request_id, fields: errors }
            }
            Err(_) => Self::new(status, "internal_error", "the answer cannot be read", "look into the log"),
        }
    }
}
