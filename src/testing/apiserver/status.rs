//! `Status` objects: what the API server answers when it does not do what was asked.

use super::kinds::Resource;
use serde_json::{Value, json};

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub code: u16,
    pub reason: String,
    pub message: String,
    /// Seconds, for the header `Retry-After` and for the details.
    pub retry_after: Option<u32>,
    /// `details.causes[].reason`
    pub cause: Option<String>,
    /// `details.name`: the object that it is about.
    pub name: Option<String>,
}

impl Refusal {
    pub fn new(code: u16, reason: &str, message: impl Into<String>) -> Refusal {
        Refusal { code, reason: reason.into(), message: message.into(), retry_after: None, cause: None, name: None }
    }

    pub fn retry_after(self, seconds: u32) -> Refusal {
        Refusal { retry_after: Some(seconds), ..self }
    }

    fn about(self, name: &str) -> Refusal {
        Refusal { name: Some(name.to_owned()), ..self }
    }

    pub fn unauthorized() -> Refusal {
        Refusal::new(401, "Unauthorized", "Unauthorized")
    }

    pub fn forbidden(verb: &str, resource: &Resource) -> Refusal {
        let (plural, group) = (resource.plural, resource.group());
        Refusal::new(
            403,
            "Forbidden",
            format!(
                "{} is forbidden: User \"system:serviceaccount:kube-system:calico-node\" cannot {verb} resource \"{plural}\" in API group \"{group}\" at the cluster scope",
                resource.full_name()
            ),
        )
    }

    pub fn not_found(resource: &Resource, name: &str) -> Refusal {
        Refusal::new(404, "NotFound", format!("{} \"{name}\" not found", resource.full_name())).about(name)
    }

    /// A path that no handler is registered for.
    pub fn no_such_path() -> Refusal {
        Refusal::new(404, "NotFound", "the server could not find the requested resource")
    }

    pub fn already_exists(resource: &Resource, name: &str) -> Refusal {
        Refusal::new(409, "AlreadyExists", format!("{} \"{name}\" already exists", resource.full_name())).about(name)
    }

    pub fn modified(resource: &Resource, name: &str) -> Refusal {
        Refusal::new(
            409,
            "Conflict",
            format!(
                "Operation cannot be fulfilled on {} \"{name}\": the object has been modified; please apply your changes to the latest version and try again",
                resource.full_name()
            ),
        )
    }

    pub fn precondition(resource: &Resource, name: &str, what: &str, given: &str, stored: &str) -> Refusal {
        Refusal::new(
            409,
            "Conflict",
            format!(
                "Operation cannot be fulfilled on {} \"{name}\": Precondition failed: {what} in precondition: {given}, {what} in object meta: {stored}",
                resource.full_name()
            ),
        )
    }

    pub fn invalid(resource: &Resource, name: &str, fault: impl std::fmt::Display) -> Refusal {
        Refusal::new(422, "Invalid", format!("{}.{} \"{name}\" is invalid: {fault}", resource.kind, resource.group()))
    }

    pub fn bad_request(message: impl Into<String>) -> Refusal {
        Refusal::new(400, "BadRequest", message)
    }

    /// The revision asked for has been compacted away.
    pub fn expired(asked: u64, oldest: u64) -> Refusal {
        Refusal::new(410, "Expired", format!("too old resource version: {asked} ({oldest})"))
    }

    /// The revision asked for is still to come.
    pub fn too_large(asked: u64, current: u64) -> Refusal {
        let message = format!("Timeout: Too large resource version: {asked}, current: {current}");
        Refusal { cause: Some("ResourceVersionTooLarge".into()), ..Refusal::new(504, "Timeout", message).retry_after(1) }
    }

    /// A server without the feature gate WatchList.
    pub fn no_streaming_lists() -> Refusal {
        Refusal::new(
            422,
            "Invalid",
            "ListOptions.meta.k8s.io \"\" is invalid: sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled",
        )
    }

    pub fn to_json(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        });
        if let Some(seconds) = self.retry_after {
            status["details"]["retryAfterSeconds"] = json!(seconds);
        }
        if let Some(name) = &self.name {
            status["details"]["name"] = json!(name);
        }
        if let Some(cause) = &self.cause {
            status["details"]["causes"] = json!([{"reason": cause, "message": self.message}]);
        }
        status
    }
}
