//! The whole program proven in labs: nodes with an engine each (the built program, not the library), pods, and
//! the kernel's own VXLAN device as a peer.

mod bench;
mod crowd;
mod faults;
mod hops;
mod kernel_peer;
mod lab;
mod modes;
mod order;
mod pairs;
mod probes;
mod spoof;
mod traffic;
mod uplink;
