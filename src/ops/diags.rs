//! Everything that somebody far away needs to understand a node, in one archive. Works without the daemon: what could not
//! be had is listed in it.

use super::api::{Client, Resource};
use super::doctor;
use super::trace::last;
use super::view::{TraceFrame, TraceLine, TraceRow};
use flate2::Compression;
use flate2::write::GzEncoder;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What goes into the archive, by name in it, and what is missing.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Bundle {
    pub files: BTreeMap<String, Vec<u8>>,
    /// One line each: what, and why.
    pub missing: Vec<String>,
}

/// Of the kernel's tables and settings: path below /proc.
const PROC: &[&str] = &[
    "version",
    "cpuinfo",
    "meminfo",
    "loadavg",
    "net/dev",
    "net/route",
    "net/arp",
    "net/tcp",
    "net/udp",
    "net/raw",
    "net/packet",
    "net/snmp",
    "net/netstat",
    "net/softnet_stat",
];
const SYSCTLS: &[&str] = &[
    "net/ipv4/ip_forward",
    "net/ipv4/ip_local_port_range",
    "net/ipv4/conf/all/rp_filter",
    "net/ipv4/conf/default/rp_filter",
    "net/ipv4/conf/all/forwarding",
    "net/core/rmem_max",
    "net/core/wmem_max",
    "net/core/netdev_max_backlog",
    "net/core/bpf_jit_enable",
    "kernel/unprivileged_bpf_disabled",
    "kernel/osrelease",
];
/// Programs that say more; each is given ten seconds.
const COMMANDS: &[(&str, &[&str])] = &[
    ("ip-link.txt", &["ip", "-s", "-d", "link"]),
    ("ip-addr.txt", &["ip", "addr"]),
    ("ip-route.txt", &["ip", "route", "show", "table", "all"]),
    ("ip-rule.txt", &["ip", "rule"]),
    ("ip-neigh.txt", &["ip", "neigh"]),
    ("tc-qdisc.txt", &["tc", "-s", "qdisc"]),
    ("nft-ruleset.txt", &["nft", "list", "ruleset"]),
    ("journal.txt", &["journalctl", "--unit", "tortie", "--lines", "5000", "--no-pager"]),
];
const COMMAND_SECONDS: &str = "10";
/// How long packets are written down, unless a trace or capture has shown some within this time.
const TRACE_TIME: Duration = Duration::from_secs(2);
const TRACE_RECENT: Duration = Duration::from_secs(600);

impl Bundle {
    fn add(&mut self, name: &str, content: Result<Vec<u8>, String>) {
        match content {
            Ok(bytes) => drop(self.files.insert(name.to_owned(), bytes)),
            Err(why) => self.missing.push(format!("{name}: {why}")),
        }
    }

    /// Looks at everything.
    pub fn collect(config: &Path, socket: &Path) -> Bundle {
        let mut b = Bundle::default();
        b.add("version.txt", Ok(concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION"), "\n").into()));
        let client = Client::new(socket);
        for r in Resource::ALL {
            let name = format!("{}.json", r.path().rsplit('/').next().unwrap_or_default());
            b.add(&name, client.body(r, "").map_err(|e| e.to_string()));
        }
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let recent = |p: &TraceRow| Duration::from_nanos(p.at) + TRACE_RECENT > since_1970;
        if !client.last_trace().is_ok_and(|last| last.packets.last().is_some_and(recent)) {
            b.add("trace.json", trace(&client));
        }
        b.add("doctor.json", examine(config, socket));
        b.add(
            "config.yaml",
            fs::read_to_string(config).map(|t| without_secrets(&t).into_bytes()).map_err(|e| format!("{}: {e}", config.display())),
        );
        for path in PROC {
            b.add(&format!("proc-{}.txt", path.replace('/', "-")), fs::read(Path::new("/proc").join(path)).map_err(|e| e.to_string()));
        }
        b.add("sysctl.txt", Ok(sysctls().into_bytes()));
        for (name, argv) in COMMANDS {
            b.add(name, output(argv));
        }
        let missing = b.missing.iter().fold(String::new(), |out, line| out + line + "\n");
        b.add("missing.txt", Ok(missing.into_bytes()));
        b
    }

    /// Writes `tortie-diags-NODE-TIME.tar.gz` into `folder`, readable by its owner only.
    pub fn save(&self, folder: &Path, node: &str) -> io::Result<PathBuf> {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let stem = format!("tortie-diags-{}-{seconds}", node.replace(['/', ' '], "-"));
        let path = folder.join(format!("{stem}.tar.gz"));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        self.write(file, &stem, seconds)?;
        Ok(path)
    }

    fn write(&self, file: File, stem: &str, seconds: u64) -> io::Result<()> {
        let mut archive = tar::Builder::new(GzEncoder::new(file, Compression::default()));
        for (name, bytes) in &self.files {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o600);
            header.set_mtime(seconds);
            archive.append_data(&mut header, format!("{stem}/{name}"), bytes.as_slice())?;
        }
        archive.into_inner()?.finish()?.flush()
    }
}

/// Packets of the next moments with what became of each: headers only, as what pods say is theirs.
fn trace(client: &Client) -> Result<Vec<u8>, String> {
    let (mut rows, end) = (Vec::new(), Instant::now() + TRACE_TIME);
    let each = |line| {
        if let TraceLine::Packet(mut row) = line {
            std::iter::once(&mut row.received).chain(&mut row.sent).for_each(TraceFrame::without_payload);
            rows.push(row);
        }
        Instant::now() < end
    };
    client.trace("", last::PACKETS as u64, each).map_err(|e| e.to_string())?;
    serde_json::to_vec(&rows).map_err(|e| e.to_string())
}

fn examine(config: &Path, socket: &Path) -> Result<Vec<u8>, String> {
    let machine = doctor::Machine::look(config, socket).map_err(|e| e.to_string())?;
    serde_json::to_vec_pretty(&doctor::examine(&machine)).map_err(|e| e.to_string())
}

fn sysctls() -> String {
    let line = |path: &&str| {
        let value = fs::read_to_string(Path::new("/proc/sys").join(path)).map_or_else(|e| format!("({e})"), |v| v.trim().to_owned());
        format!("{} = {value}\n", path.replace('/', "."))
    };
    SYSCTLS.iter().map(line).collect()
}

fn output(argv: &[&str]) -> Result<Vec<u8>, String> {
    let out = Command::new("timeout").arg(COMMAND_SECONDS).args(argv).stdin(Stdio::null()).output().map_err(|e| format!("timeout: {e}"))?;
    if out.status.success() {
        return Ok(out.stdout);
    }
    let said = String::from_utf8_lossy(&out.stderr);
    Err(format!("{}: {}", argv.join(" "), said.lines().next().unwrap_or("failed without a word")))
}

/// Keys whose values nobody else is to see.
const SECRET: &[&str] = &["token", "password", "secret", "key-data", "private"];

/// A configuration with the values of such keys taken out, and all lines below them.
fn without_secrets(text: &str) -> String {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let mut out = String::new();
    let mut below: Option<usize> = None;
    for line in text.lines() {
        if below.is_some_and(|depth| line.trim().is_empty() || indent(line) > depth) {
            continue;
        }
        below = None;
        let lower = line.to_lowercase();
        let hit = SECRET.iter().any(|s| lower.contains(s)) && line.contains(':') && !line.trim_start().starts_with('#');
        if hit {
            below = Some(indent(line));
            let head = line.split(':').next().unwrap_or_default();
            out.push_str(&format!("{head}: (left out)\n"));
        } else {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::read::GzDecoder;
    use std::io::Read;

    #[test]
    fn secrets_stay_at_home() {
        let text = "node: a\napi:\n  socket: /x\nauth:\n  bearerToken: |\n    abc\n    def\n  user: u\ninline: {password: hunter2, x: 1}\n# a token is a comment\n";
        let out = without_secrets(text);
        for secret in ["abc", "def", "hunter2"] {
            assert!(!out.contains(secret), "{out}");
        }
        assert!(out.contains("node: a\napi:\n  socket: /x\nauth:\n  bearerToken: (left out)\n  user: u\n"), "{out}");
    }

    #[test]
    fn without_a_daemon_the_rest_is_there_and_the_missing_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("node.yaml");
        fs::write(&config, "node: a\nuplink: {interface: lo}\ndatastore: {path: /nonexistent}\n").unwrap();
        let b = Bundle::collect(&config, &dir.path().join("none.sock"));
        for name in ["doctor.json", "config.yaml", "sysctl.txt", "proc-net-dev.txt", "version.txt", "missing.txt"] {
            assert!(b.files.contains_key(name), "{name}: {:?}", b.missing);
        }
        let missing = String::from_utf8_lossy(&b.files["missing.txt"]).into_owned();
        assert!(missing.contains("trace.json: no daemon answers"), "{missing}");
        for r in Resource::ALL {
            let name = r.path().rsplit('/').next().unwrap();
            assert!(missing.contains(&format!("{name}.json: no daemon answers")), "{missing}");
        }
        let findings: serde_json::Value = serde_json::from_slice(&b.files["doctor.json"]).unwrap();
        assert!(findings.as_array().unwrap().iter().any(|f| f["check"] == "datastore" && f["state"] == "failure"));

        let path = b.save(dir.path(), "a").unwrap();
        let mut archive = tar::Archive::new(GzDecoder::new(File::open(&path).unwrap()));
        let mut found = BTreeMap::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().file_name().unwrap().to_string_lossy().into_owned();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            found.insert(name, bytes);
        }
        assert_eq!(found, b.files);
    }
}
