//! IPAMConfiguration: cluster-wide settings of address management.

use super::fields;
use crate::control::yaml::{Field, FieldError};
use jiff::SignedDuration;

/// Blocks per node where nothing is configured: a guard against claiming without end.
const DEFAULT_MAX_BLOCKS: usize = 20;
/// Longest cooldown, seconds.
const MAX_COOLDOWN: u32 = 1200;

/// The fields of `spec`; without such an object, the defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpamConfig {
    /// Nodes take addresses from their own blocks only.
    pub strict_affinity: bool,
    /// Nodes claim new blocks when theirs are full.
    pub auto_allocate_blocks: bool,
    /// 0: not set.
    pub max_blocks_per_host: u32,
    /// How long an address rests after its release.
    pub cooldown_seconds: u32,
    pub kubevirt_persistence: Option<String>,
}

impl Default for IpamConfig {
    fn default() -> IpamConfig {
        IpamConfig {
            strict_affinity: false,
            auto_allocate_blocks: true,
            max_blocks_per_host: 0,
            cooldown_seconds: 0,
            kubevirt_persistence: None,
        }
    }
}

impl IpamConfig {
    pub(super) fn read(root: &Field) -> Result<IpamConfig, FieldError> {
        let spec = root.get("spec")?;
        let default = IpamConfig::default();
        Ok(IpamConfig {
            strict_affinity: fields::flag(&spec.get("strictAffinity")?)?,
            auto_allocate_blocks: spec.get("autoAllocateBlocks")?.boolean()?.unwrap_or(default.auto_allocate_blocks),
            max_blocks_per_host: spec.get("maxBlocksPerHost")?.number(0, 1_000_000)?.unwrap_or(0),
            cooldown_seconds: spec.get("ipCooldownSeconds")?.number(0, MAX_COOLDOWN)?.unwrap_or(0),
            kubevirt_persistence: spec.get("kubeVirtVMAddressPersistence")?.text()?.map(str::to_owned),
        })
    }

    pub fn cooldown(&self) -> SignedDuration {
        SignedDuration::from_secs(self.cooldown_seconds.into())
    }

    /// Most blocks of one node: the smaller of this and a request's own limit (0: none).
    pub fn max_blocks(&self, request: usize) -> usize {
        match (self.max_blocks_per_host as usize, request) {
            (0, 0) => DEFAULT_MAX_BLOCKS,
            (0, limit) | (limit, 0) => limit,
            (a, b) => a.min(b),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::yaml::documents;

    fn read(spec: &str) -> Result<IpamConfig, String> {
        let docs = documents(&format!("spec: {{{spec}}}")).unwrap();
        IpamConfig::read(&Field::root(&docs[0])).map_err(|e| e.to_string())
    }

    #[test]
    fn fields_and_defaults() {
        assert_eq!(read("").unwrap(), IpamConfig::default());
        let c = read("strictAffinity: true, autoAllocateBlocks: false, maxBlocksPerHost: 4, ipCooldownSeconds: 60").unwrap();
        assert_eq!((c.strict_affinity, c.auto_allocate_blocks, c.cooldown().as_secs()), (true, false, 60));
        assert_eq!((c.max_blocks(0), c.max_blocks(2), c.max_blocks(9)), (4, 2, 4));
        let c = IpamConfig::default();
        assert_eq!((c.max_blocks(0), c.max_blocks(2), c.max_blocks(50)), (20, 2, 50));
        assert!(read("ipCooldownSeconds: 1201").unwrap_err().starts_with("spec.ipCooldownSeconds: a whole number from 0 to 1200"));
    }
}
