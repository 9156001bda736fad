//! What goes wrong, with the code that the specification has for it.

use super::result::Version;
use crate::control::config::ConfigError;
use crate::control::datastore::objects::AccessError;
use crate::control::yaml::FieldError;
use serde_json::{Value, json};
use std::io;
use std::path::PathBuf;

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum CniError {
    #[error("cniVersion {given:?} is not supported; one of {supported} is")]
    Version { given: String, supported: String },
    #[error("cniVersion {} has no {command}; {since} and later have", version.name())]
    Command { command: &'static str, version: Version, since: &'static str },
    #[error("{key}: {value}: {why}")]
    Unsupported { key: String, value: String, why: &'static str },
    #[error("{name}: {fault}")]
    Environment { name: &'static str, fault: String },
    #[error("cannot {what}: {source}")]
    Io { what: String, source: io::Error },
    #[error("{what}: not what the specification says: {fault}")]
    Decode { what: String, fault: String },
    #[error("network configuration: {0}")]
    Config(FieldError),
    #[error("{0}")]
    NodeConfig(#[from] ConfigError),
    #[error("{what}: {fault}")]
    Refused { what: String, fault: String },
    /// It may go well later: nothing is left behind, the runtime tries again.
    #[error("{0}")]
    Later(String),
    #[error("{0}")]
    NotReady(String),
    #[error("{what} is {found}, not {wanted}")]
    Differs { what: String, found: String, wanted: String },
    #[error(transparent)]
    Datastore(AccessError),
    #[error("IPAM: {0}")]
    Ipam(String),
    #[error("plugin {plugin}: {message}")]
    Plugin { plugin: String, code: u32, message: String, details: String },
    #[error("no plugin {plugin} in CNI_PATH ({path})")]
    NoPlugin { plugin: String, path: String },
    #[error("{path}: {fault}", path = path.display())]
    File { path: PathBuf, fault: String },
    /// Several things went wrong on the way to clean up as much as possible.
    #[error("{}", all.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Several { all: Vec<CniError> },
}

impl From<AccessError> for CniError {
    fn from(e: AccessError) -> CniError {
        CniError::Datastore(e)
    }
}

impl From<FieldError> for CniError {
    fn from(e: FieldError) -> CniError {
        CniError::Config(e)
    }
}

/// An I/O fault, by what was to be done.
pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> CniError {
    let what = what.into();
    move |source| CniError::Io { what, source }
}

impl CniError {
    /// SPEC.md, "Error": up to 99 the specification's, from 100 on the plugin's own.
    pub fn code(&self) -> u32 {
        match self {
            CniError::Version { .. } | CniError::Command { .. } => 1,
            CniError::Unsupported { .. } => 2,
            CniError::Environment { .. } => 4,
            CniError::Io { .. } | CniError::File { .. } | CniError::NoPlugin { .. } => 5,
            CniError::Decode { .. } => 6,
            CniError::Config(_) | CniError::NodeConfig(_) | CniError::Refused { .. } => 7,
            CniError::Later(_) => 11,
            CniError::NotReady(_) => 50,
            CniError::Differs { .. } => 100,
            CniError::Datastore(AccessError::Unavailable { .. } | AccessError::Conflict { .. }) => 11,
            CniError::Datastore(_) => 101,
            CniError::Ipam(_) => 102,
            CniError::Plugin { code, .. } => *code,
            CniError::Several { all } => all.first().map_or(100, CniError::code),
        }
    }

    /// What to print on standard output.
    pub fn to_json(&self, version: Version) -> Value {
        let details = if let CniError::Plugin { details, .. } = self { details.as_str() } else { "" };
        json!({ "cniVersion": version.name(), "code": self.code(), "msg": self.to_string(), "details": details })
    }

    /// One of several, or all of them.
    pub fn join(mut all: Vec<CniError>) -> Result<(), CniError> {
        match all.len() {
            0 => Ok(()),
            1 => Err(all.remove(0)),
            _ => Err(CniError::Several { all }),
        }
    }
}
