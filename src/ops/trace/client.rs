//! The reading end of a trace.

use super::stream::TRACE;
use crate::ops::api::{Client, ClientError};
use crate::ops::view::TraceLine;
use std::io::{self, BufRead, Read, Write};
use std::os::unix::net::UnixStream;

impl Client {
    /// Packets as they come, until `each` says that it is enough (false), `count` have come, or the daemon ends. `each`
    /// is also called with news of losses, about once a second.
    pub fn trace(&self, filter: &str, count: u64, mut each: impl FnMut(TraceLine) -> bool) -> Result<(), ClientError> {
        let failed = |e| self.explain(e);
        let mut s = UnixStream::connect(&self.path).map_err(failed)?;
        s.set_read_timeout(Some(self.timeout)).map_err(failed)?;
        let target = format!("{TRACE}?filter={}&count={count}", encode_percent(filter));
        s.write_all(format!("GET {target} HTTP/1.1\r\nHost: tortie\r\nConnection: close\r\n\r\n").as_bytes()).map_err(failed)?;
        let mut reader = io::BufReader::new(s);
        let (mut head, mut status) = (String::new(), None);
        loop {
            head.clear();
            if reader.read_line(&mut head).map_err(failed)? == 0 {
                return Err(self.malformed("no HTTP head"));
            }
            match head.trim_end() {
                "" => break,
                l => _ = status.get_or_insert_with(|| l.to_owned()),
            }
        }
        let status = status.unwrap_or_default();
        if !status.starts_with("HTTP/1.1 200") {
            let mut body = String::new();
            reader.read_to_string(&mut body).map_err(failed)?;
            let value: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
            let message = value["error"].as_str().unwrap_or("no reason given").to_owned();
            return Err(ClientError::Refused { path: self.path.clone(), resource: TRACE, status, message });
        }
        let mut text = String::new();
        loop {
            text.clear();
            if reader.read_line(&mut text).map_err(failed)? == 0 {
                return Ok(());
            }
            let line = serde_json::from_str(&text).map_err(|e| self.malformed(&format!("{TRACE}: {e}")))?;
            if !each(line) {
                return Ok(());
            }
        }
    }
}

/// Everything but letters and digits as %XX.
fn encode_percent(text: &str) -> String {
    text.bytes().map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}
