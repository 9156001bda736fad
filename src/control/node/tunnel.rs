//! The addresses of the node's tunnels.

use super::object::NodeObject;
use crate::control::datastore::objects::Objects;

#[derive(Debug, thiserror::Error)]
#[error("x")]
pub struct TunnelError;

pub async fn wanted<O: Objects>(_objects: &O, _node: &NodeObject) -> Result<Vec<(&'static str, Option<String>)>, TunnelError> {
    Ok(Vec::new())
}
