//! The programs that run in this network namespace, as far as this process may see them.

use std::fs;
use std::path::Path;

/// Process number and name (the kernel keeps 15 characters of it), in order of number. `root` is the folder that stands
/// for `/`.
pub fn here(root: &Path) -> Vec<(u32, String)> {
    let Ok(entries) = fs::read_dir(root.join("proc")) else { return Vec::new() };
    let namespace = |pid: &str| fs::read_link(root.join("proc").join(pid).join("ns/net")).ok();
    let own = namespace("self");
    let name = |pid: u32| fs::read_to_string(root.join(format!("proc/{pid}/comm"))).ok();
    let mut out: Vec<(u32, String)> = entries
        .flatten()
        .filter_map(|e| e.file_name().to_string_lossy().parse::<u32>().ok())
        .filter(|pid| own.is_none() || namespace(&pid.to_string()) == own)
        .filter_map(|pid| Some((pid, name(pid)?.trim().to_owned())))
        .collect();
    out.sort_unstable();
    out
}

/// A program that manages network interfaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manager {
    pub name: &'static str,
    pub pid: u32,
}

/// Managers by the name of their process.
const MANAGERS: [(&str, &str); 6] = [
    ("NetworkManager", "NetworkManager"),
    ("systemd-network", "systemd-networkd"),
    ("connmand", "ConnMan"),
    ("dhcpcd", "dhcpcd"),
    ("netplan", "netplan"),
    ("ifupdown2", "ifupdown2"),
];

/// Those that run.
pub fn managers(root: &Path) -> Vec<Manager> {
    let known = |(pid, process): (u32, String)| {
        let (_, name) = MANAGERS.iter().find(|(p, _)| *p == process)?;
        Some(Manager { name, pid })
    };
    here(root).into_iter().filter_map(known).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn managers_are_known_by_what_the_kernel_keeps_of_their_names() {
        let dir = tempfile::tempdir().unwrap();
        for (pid, name) in [(7, "NetworkManager"), (9, "systemd-network"), (11, "sshd")] {
            fs::create_dir_all(dir.path().join(format!("proc/{pid}"))).unwrap();
            fs::write(dir.path().join(format!("proc/{pid}/comm")), format!("{name}\n")).unwrap();
        }
        assert_eq!(here(dir.path()).len(), 3);
        assert_eq!(managers(dir.path()), [Manager { name: "NetworkManager", pid: 7 }, Manager { name: "systemd-networkd", pid: 9 }]);
    }
}
