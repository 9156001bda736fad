//! `tortie node status` beside daemons and BIRDs that answer, and beside none.

use crate::support::Bench;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;

/// Answers every connection on a socket with the same text, once a line came.
fn answering(b: &Bench, name: &str, text: String) {
    let listener = UnixListener::bind(b.path(name)).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            BufReader::new(stream.try_clone().unwrap()).read_line(&mut String::new()).unwrap();
            // The asker may have enough before the end.
            let _ = stream.write_all(text.as_bytes());
        }
    });
}

const ROW: &str = r#"{"node":"n1","version":"0.1.0","pid":7,"in_sync":true,"generation":3,"workers":1,"uplink":"eth0","address":"192.168.3.143","tunnel_address":null,"pod_mtu":1450,"problems":[]}"#;
const LINE: &str = "node status --socket {}/api.sock --bird {}/bird.ctl --bird6 {}/bird6.ctl";

#[test]
fn only_a_daemon_that_answers_is_running() {
    let b = Bench::new("");
    let e = b.err(LINE);
    assert!(e.starts_with("tortie: Calico process is not running. (no daemon answers on "), "{e}");
    answering(
        &b,
        "api.sock",
        format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{ROW}", ROW.len()),
    );
    let own = "\ntortie 0.1.0 (pid 7) forwards for node n1 (192.168.3.143) by the datastore's routes, without BGP sessions of its own.\n";
    assert_eq!(b.out(LINE), format!("Calico process is running.\n\nNone of the BGP backend processes (BIRD or GoBGP) are running.\n{own}"));
    answering(&b, "bird.ctl", "0001 BIRD ready.\n1002-Mesh_172_17_0_40 BGP master up 00:24:04 Established\n0000 \n".into());
    let table = "Calico process is running.\n\n\
                 IPv4 BGP status\n\
                 +--------------+-------------------+-------+----------+-------------+\n\
                 | PEER ADDRESS |     PEER TYPE     | STATE |  SINCE   |    INFO     |\n\
                 +--------------+-------------------+-------+----------+-------------+\n\
                 | 172.17.0.40  | node-to-node mesh | up    | 00:24:04 | Established |\n\
                 +--------------+-------------------+-------+----------+-------------+\n\n";
    assert_eq!(b.out(LINE), format!("{table}INFO: BIRDv6 process: 'bird6' is not running.\n{own}"));
    answering(&b, "bird6.ctl", "0001 BIRD ready.\n2002-name proto table state since info\n0000 \n".into());
    assert_eq!(b.out(LINE), format!("{table}IPv6 BGP status\nNo IPv6 peers found.\n{own}"));
}
