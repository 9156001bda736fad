//! Counting a handle's addresses.

use super::documents::Handle;
use super::error::IpamError;
use super::{Ipam, RETRIES};
use crate::control::datastore::objects::Objects;
use ipnet::IpNet;

impl<S: Objects> Ipam<S> {
    /// Counts `count` addresses of a block more, before the block says so.
    pub(super) async fn increment(&self, handle: &str, block: IpNet, count: u64) -> Result<(), IpamError> {
        for _ in 0..RETRIES {
            let mut stored = self.store.handle(handle).await?.unwrap_or_else(|| Handle::new(handle));
            stored.add(block, count);
            match self.store.write_handle(&stored).await {
                Err(e) if e.is_conflict() => {}
                result => return result,
            }
        }
        Err(IpamError::Contention { attempts: RETRIES })
    }

    /// Counts less, after the block did; a handle that counts nothing goes.
    pub(super) async fn decrement(&self, handle: &str, block: IpNet, count: u64) -> Result<(), IpamError> {
        for _ in 0..RETRIES {
            let Some(mut stored) = self.store.handle(handle).await? else { return Ok(()) };
            stored.subtract(block, count);
            let result = match stored.blocks.is_empty() {
                true => self.store.delete_handle(&stored).await,
                false => self.store.write_handle(&stored).await,
            };
            match result {
                Err(e) if e.is_conflict() => {}
                result => return result,
            }
        }
        Err(IpamError::Contention { attempts: RETRIES })
    }

    /// The same where the rest of the work does not depend on it: a handle that counts too many is harmless.
    pub(super) async fn try_decrement(&self, handle: &str, block: IpNet, count: u64) {
        if let Err(e) = self.decrement(handle, block, count).await {
            tracing::warn!("handle {handle} counts {count} too many in block {block}: {e}");
        }
    }
}
