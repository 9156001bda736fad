//! ClusterInformation: what tells one cluster from another.

use crate::control::yaml::{Field, FieldError};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterInformation {
    /// `spec.clusterGUID`; `None` if it is missing or empty.
    pub guid: Option<String>,
}

pub(super) fn read(root: &Field) -> Result<ClusterInformation, FieldError> {
    let guid = root.at(&["spec", "clusterGUID"])?.text()?.filter(|g| !g.is_empty()).map(str::to_owned);
    Ok(ClusterInformation { guid })
}
