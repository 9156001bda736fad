//! A BIRD's BGP sessions, asked for on its control socket, as calicoctl does. Its answer to `show protocols` has a code
//! in front of each line (BIRD user's guide, "Remote control"): 0001 greeting, 2002 heading, 1002 first row, a blank for
//! further rows, 0000 the end.

use super::boxed::Boxed;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long BIRD may take for a line.
const PATIENCE: Duration = Duration::from_secs(2);

/// One session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    address: String,
    /// `node-to-node mesh`, `node specific` or `global`.
    kind: &'static str,
    state: String,
    since: String,
    info: String,
}

#[derive(Debug, thiserror::Error)]
pub enum BirdError {
    #[error("Error querying BIRD on {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("Error querying BIRD on {}: unexpected line {line:?}", path.display())]
    Line { path: PathBuf, line: String },
}

/// The sessions of the first socket on which a BIRD answers; `None` if there is none.
pub fn peers(sockets: &[PathBuf]) -> Result<Option<Vec<Peer>>, BirdError> {
    let Some((path, stream)) = sockets.iter().find_map(|p| Some((p, UnixStream::connect(p).ok()?))) else { return Ok(None) };
    ask(path, stream).map(Some)
}

fn ask(path: &Path, mut stream: UnixStream) -> Result<Vec<Peer>, BirdError> {
    let fault = |source| BirdError::Io { path: path.into(), source };
    stream.set_read_timeout(Some(PATIENCE)).map_err(fault)?;
    stream.write_all(b"show protocols\n").map_err(fault)?;
    let mut peers = Vec::new();
    for line in BufReader::new(stream).lines() {
        let line = line.map_err(fault)?;
        match line.get(..4) {
            Some("0000") => break,
            Some("0001" | "2002") => {}
            Some("1002") => peers.extend(peer(&line[4..])),
            _ if line.starts_with(' ') => peers.extend(peer(&line)),
            _ => return Err(BirdError::Line { path: path.into(), line }),
        }
    }
    Ok(peers)
}

/// Calico names a session after the peer: `Mesh_192_168_3_144`, and in IPv6 `Mesh_fd00__1`.
fn peer(row: &str) -> Option<Peer> {
    let mut columns = row.trim_start_matches('-').split_whitespace();
    let (name, protocol) = (columns.next()?, columns.next()?);
    let (_, state, since) = (columns.next()?, columns.next()?, columns.next()?);
    let (prefix, address) = name.split_once('_')?;
    let kind = match prefix {
        "Mesh" => "node-to-node mesh",
        "Node" => "node specific",
        "Global" => "global",
        _ => return None,
    };
    let info: Vec<&str> = columns.collect();
    if protocol != "BGP" || info.is_empty() {
        return None;
    }
    let separator = if address.split('_').count() == 4 && !address.contains("__") { "." } else { ":" };
    Some(Peer { address: address.replace('_', separator), kind, state: state.into(), since: since.into(), info: info.join(" ") })
}

/// The sessions of an address family.
pub fn table(family: &str, peers: &[Peer]) -> String {
    if peers.is_empty() {
        return format!("No {family} peers found.\n");
    }
    let mut table = Boxed::new(&["PEER ADDRESS", "PEER TYPE", "STATE", "SINCE", "INFO"]);
    for p in peers {
        table.row([&p.address, p.kind, &p.state, &p.since, &p.info].map(str::to_owned));
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    /// A BIRD that answers once.
    fn answering(text: &'static str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bird.ctl");
        let listener = UnixListener::bind(&path).unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = String::new();
            BufReader::new(stream.try_clone().unwrap()).read_line(&mut asked).unwrap();
            assert_eq!(asked, "show protocols\n");
            stream.write_all(text.as_bytes()).unwrap();
        });
        (folder, path)
    }

    #[test]
    fn sessions_as_documented() {
        let (_folder, path) = answering(
            "0001 BIRD v0.3.3 ready.\n2002-name     proto    table    state  since       info\n1002-kernel1  Kernel   master   up     2016-11-21\n \
             device1  Device   master   up     2016-11-21\n Mesh_192_168_3_144 BGP      master   up     04:01:17    Established\n \
             Mesh_192_168_3_145 BGP      master   up     12:12:55    Established\n Global_192_168_3_1 BGP master start 04:01:17 Active Socket: Connection refused\n \
             Mesh_fd00__1 BGP master up 04:01:17 Established\n0000 \n",
        );
        let found = peers(&["/nonexistent".into(), path]).unwrap().unwrap();
        let short: Vec<_> = found.iter().map(|p| (p.address.as_str(), p.kind, p.state.as_str(), p.info.as_str())).collect();
        assert_eq!(short[2], ("192.168.3.1", "global", "start", "Active Socket: Connection refused"));
        assert_eq!((short.len(), short[3].0), (4, "fd00::1"));
        assert_eq!(
            table("IPv4", &found[..2]),
            "+---------------+-------------------+-------+----------+-------------+\n\
             | PEER ADDRESS  |     PEER TYPE     | STATE |  SINCE   |    INFO     |\n\
             +---------------+-------------------+-------+----------+-------------+\n\
             | 192.168.3.144 | node-to-node mesh | up    | 04:01:17 | Established |\n\
             | 192.168.3.145 | node-to-node mesh | up    | 12:12:55 | Established |\n\
             +---------------+-------------------+-------+----------+-------------+\n"
        );
        assert_eq!(table("IPv6", &[]), "No IPv6 peers found.\n");
    }

    #[test]
    fn no_bird_and_other_answers() {
        assert_eq!(peers(&["/nonexistent".into()]).unwrap(), None);
        let (_folder, path) = answering("HTTP/1.1 400\n");
        let e = peers(&[path]).unwrap_err().to_string();
        assert!(e.contains("unexpected line \"HTTP/1.1 400\""), "{e}");
    }
}
