//! iproute2 as the lab's hands: batches of `ip` and `bridge` commands inside namespaces, and sysctls.

use super::LabError;
use super::spec::netns_path;
use super::sys;
use std::io::{self, Write};
use std::process::{Command, Output, Stdio};

/// A tool that the lab calls, and the Debian package it comes in.
const TOOLS: [(&str, &str); 3] = [("ip", "iproute2"), ("bridge", "iproute2"), ("ping", "iputils-ping")];

/// Whether all tools are there; the error names the packages of those that are not.
pub fn check_tools() -> Result<(), LabError> {
    let missing: Vec<_> = TOOLS.iter().filter(|(tool, _)| !on_path(tool)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut packages: Vec<_> = missing.iter().map(|(_, package)| *package).collect();
    packages.dedup();
    Err(LabError::Tools { tools: missing.iter().map(|(tool, _)| *tool).collect::<Vec<_>>().join(", "), packages: packages.join(" ") })
}

fn on_path(tool: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(tool).is_file()))
}

/// Runs commands of `ip` (without the word `ip`), one per line, in one process; in `netns` if given.
pub fn ip(netns: Option<&str>, lines: &[String]) -> Result<(), LabError> {
    batch("ip", netns, lines)
}

/// The same for `bridge`.
pub fn bridge(netns: &str, lines: &[String]) -> Result<(), LabError> {
    batch("bridge", Some(netns), lines)
}

fn batch(tool: &'static str, netns: Option<&str>, lines: &[String]) -> Result<(), LabError> {
    if lines.is_empty() {
        return Ok(());
    }
    let mut command = Command::new(tool);
    if let Some(n) = netns {
        command.args(["-n", n]);
    }
    command.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut run = || -> io::Result<Output> {
        let mut child = command.spawn()?;
        let mut stdin = child.stdin.take().ok_or_else(|| io::Error::other("no standard input"))?;
        stdin.write_all((lines.join("\n") + "\n").as_bytes())?;
        drop(stdin);
        child.wait_with_output()
    };
    let output = run().map_err(|source| LabError::Run { what: tool.to_owned(), source })?;
    if output.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(LabError::Tool {
        tool,
        netns: netns.unwrap_or("the host's").to_owned(),
        line: failed_line(&stderr, lines),
        message: first_line(&stderr),
    })
}

/// The command that a batch stopped at: iproute2 prints `Command failed -:LINE`.
fn failed_line(stderr: &str, lines: &[String]) -> String {
    let number = stderr.lines().filter_map(|l| l.rsplit_once("-:")).find_map(|(_, n)| n.trim().parse::<usize>().ok());
    number.and_then(|n| lines.get(n.checked_sub(1)?)).cloned().unwrap_or_else(|| lines.join("; "))
}

fn first_line(text: &str) -> String {
    text.lines().find(|l| !l.trim().is_empty()).unwrap_or("no message").trim().to_owned()
}

/// Names of the network namespaces that exist.
pub fn namespaces() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/run/netns") else { return Vec::new() };
    entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect()
}

/// Whether an interface exists in a namespace.
pub fn has_link(netns: &str, interface: &str) -> bool {
    let show = Command::new("ip")
        .args(["-n", netns, "link", "show", "dev", interface])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    show.is_ok_and(|s| s.success())
}

/// Writes sysctls (`net.ipv4.ip_forward` style keys with `/` for `.`, below /proc/sys) inside a namespace.
/// Keys that this kernel does not have are skipped: an IPv6 switch without IPv6 has nothing to switch.
pub fn sysctl(netns: &str, settings: &[(&str, &str)]) -> Result<(), LabError> {
    let set = || {
        for (key, value) in settings {
            match std::fs::write(format!("/proc/sys/{key}"), value) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io::Error::new(e.kind(), format!("{key}: {e}"))),
                _ => {}
            }
        }
        Ok(())
    };
    sys::inside(&netns_path(netns), set).map_err(|source| LabError::Run { what: format!("sysctl in {netns}"), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_batch_names_its_line() {
        let lines = ["link add a".to_owned(), "link set b up".to_owned()];
        assert_eq!(failed_line("Cannot find device \"b\"\nCommand failed -:2\n", &lines), "link set b up");
        assert_eq!(failed_line("strange", &lines), "link add a; link set b up");
        assert_eq!(failed_line("Command failed -:99", &lines), "link add a; link set b up");
    }
}
