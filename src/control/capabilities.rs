//! What this process may do, by the kernel's account of it.

/// Capabilities by their bit (include/uapi/linux/capability.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Capability {
    NetAdmin = 12,
    NetRaw = 13,
    IpcLock = 14,
    SysAdmin = 21,
    Bpf = 39,
}

impl Capability {
    pub const fn name(self) -> &'static str {
        match self {
            Capability::NetAdmin => "CAP_NET_ADMIN",
            Capability::NetRaw => "CAP_NET_RAW",
            Capability::IpcLock => "CAP_IPC_LOCK",
            Capability::SysAdmin => "CAP_SYS_ADMIN",
            Capability::Bpf => "CAP_BPF",
        }
    }
}

/// The effective set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities(u64);

impl Capabilities {
    /// From the text of /proc/PID/status; `None` if it does not say.
    pub fn of_status(text: &str) -> Option<Capabilities> {
        let set = text.lines().find_map(|l| l.strip_prefix("CapEff:"))?;
        u64::from_str_radix(set.trim(), 16).ok().map(Capabilities)
    }

    /// CAP_SYS_ADMIN includes what CAP_BPF was taken out of.
    pub fn has(self, c: Capability) -> bool {
        let bit = |c: Capability| self.0 & (1 << c as u32) != 0;
        bit(c) || (c == Capability::Bpf && bit(Capability::SysAdmin))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_of_the_effective_set() {
        let c = Capabilities::of_status("CapPrm:\tffffffffffffffff\nCapEff:\t0000000000203000\n").unwrap();
        assert!(c.has(Capability::NetAdmin) && c.has(Capability::NetRaw) && c.has(Capability::Bpf) && !c.has(Capability::IpcLock));
        assert_eq!(Capabilities::of_status("CapEff:\tx\n"), None);
    }
}
