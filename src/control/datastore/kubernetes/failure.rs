//! What an API server answers when it does not do what was asked, and what follows from it.

use crate::control::yaml::Field;
use kube::core::Status;
use std::error::Error as _;
use std::time::Duration;

/// A request that failed.
#[derive(Debug)]
pub enum Failure {
    /// The server's own answer.
    Refused(Box<Status>),
    /// No answer, or half of one.
    Unreachable { message: String },
}

/// Longest message of a server that is passed on, bytes.
const MESSAGE_MAX: usize = 400;

impl Failure {
    pub fn unreachable(message: impl Into<String>) -> Failure {
        Failure::Unreachable { message: message.into() }
    }

    /// From the `Status` that an ERROR event holds.
    pub fn from_field(status: &Field) -> Failure {
        let text = |key: &str| status.get(key).and_then(|f| f.text()).ok().flatten().unwrap_or_default().to_owned();
        let code = status.get("code").and_then(|f| f.number::<u16>(0, 999)).ok().flatten().unwrap_or(500);
        Failure::Refused(Status::failure(&text("message"), &text("reason")).with_code(code).boxed())
    }

    pub fn code(&self) -> u16 {
        match self {
            Failure::Refused(status) => status.code,
            Failure::Unreachable { .. } => 0,
        }
    }

    pub fn reason(&self) -> &str {
        match self {
            Failure::Refused(status) => &status.reason,
            Failure::Unreachable { .. } => "",
        }
    }

    /// On one line.
    pub fn message(&self) -> String {
        let text = match self {
            Failure::Refused(status) if status.message.is_empty() => format!("HTTP {} {}", status.code, status.reason),
            Failure::Refused(status) => format!("HTTP {}: {}", status.code, status.message),
            Failure::Unreachable { message } => message.clone(),
        };
        let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
        match line.char_indices().nth(MESSAGE_MAX) {
            Some((at, _)) => format!("{}...", &line[..at]),
            None => line,
        }
    }

    /// The revision that was asked for is no longer known.
    pub fn is_expired(&self) -> bool {
        self.code() == 410 || matches!(self.reason(), "Expired" | "Gone")
    }

    /// The revision that was asked for is still to come: the server is behind, or was restored from a backup.
    pub fn is_future(&self) -> bool {
        let Failure::Refused(status) = self else { return false };
        let causes = status.details.as_ref().map_or(&[][..], |d| d.causes.as_slice());
        causes.iter().any(|c| c.reason == "ResourceVersionTooLarge") || status.message.contains("Too large resource version")
    }

    /// The server does not know streaming lists.
    pub fn is_no_streaming(&self) -> bool {
        matches!(self.code(), 400 | 422)
    }

    pub fn is_forbidden(&self) -> bool {
        self.code() == 403
    }

    pub fn is_not_found(&self) -> bool {
        self.code() == 404
    }

    /// Whether it is about one object and not about a path.
    pub fn names_an_object(&self) -> bool {
        let Failure::Refused(status) = self else { return false };
        status.details.as_ref().is_some_and(|d| !d.name.is_empty())
    }

    pub fn is_unauthorized(&self) -> bool {
        self.code() == 401
    }

    /// How long the server wants to be left alone.
    pub fn retry_after(&self) -> Option<Duration> {
        let Failure::Refused(status) = self else { return None };
        let asked = status.details.as_ref().map_or(0, |d| d.retry_after_seconds);
        match (asked, status.code) {
            (0, 429) => Some(Duration::from_secs(1)),
            (0, _) => None,
            (seconds, _) => Some(Duration::from_secs(seconds.into())),
        }
    }
}

impl From<kube::Error> for Failure {
    fn from(e: kube::Error) -> Failure {
        match e {
            kube::Error::Api(status) => Failure::Refused(status),
            other => Failure::unreachable(innermost(&other)),
        }
    }
}

/// The error at the bottom of a chain says what happened; those above it only where.
fn innermost(e: &dyn std::error::Error) -> String {
    let mut last = e;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

/// The same for an error while a body is read.
pub fn broken(e: &std::io::Error) -> Failure {
    Failure::unreachable(format!("the connection broke: {}", e.source().map_or_else(|| e.to_string(), innermost)))
}
