//! The CNI plugin as runtimes call it: the real program and daemon in network namespaces of their own, plugins and a
//! container runtime of Debian's. Needs root; nothing is skipped.

mod add;
mod addresses;
mod chain;
mod kubernetes;
mod life;
mod many;
mod runtime;
mod support;
mod tap;
