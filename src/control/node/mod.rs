//! Being a node of a Calico cluster: finding one's address, describing oneself in the datastore, making what a new
//! cluster needs, and leaving on this host what the CNI plugin looks for. What calico/node does at its start and
//! beside Felix.
//!
//! What is written, and only where it is not so already:
//! - on the node: the annotations IPv4Address, ASNumber (if `AS` is set), IPv4VXLANTunnelAddr and IPv4IPIPTunnelAddr,
//!   and the condition NetworkUnavailable. The VTEP MAC follows from the node's name and is left to the operator;
//! - an IPPool if there is none of IPv4;
//! - ClusterInformation `default` (clusterGUID, clusterType, datastoreReady) and FelixConfiguration `default`, if they
//!   are missing. In a ClusterInformation that exists, an empty clusterGUID and a missing datastoreReady are filled in;
//!   no value is ever changed, and calicoVersion is left to stock components: calicoctl compares it with its own;
//! - on this host: `mtu` and `nodename` in `calico.dir`.

mod address;
mod condition;
mod defaults;
pub mod detect;
mod events;
mod files;
mod host;
mod object;
mod pass;
mod pool;
pub mod settings;
mod task;
mod tunnel;

pub use address::{AddressError, Found, choose};
pub use condition::Network;
pub use events::Sighting;
pub use files::Files;
pub use host::read as read_host;
pub use object::NodeObject;
pub use pass::{NodeError, Pass};
pub use pool::free_range;
pub use task::{Local, Report, Task};
pub use tunnel::TunnelError;
