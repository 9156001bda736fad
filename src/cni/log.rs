//! Where the plugin's log goes: a file if the configuration names one, else standard error, which the runtime keeps.
//! Standard output is the answer's.

use super::conf::Conf;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;
use std::sync::Mutex;
use tracing_subscriber::filter::LevelFilter;

/// A file of this size, bytes, is put aside as `.1` before more is written: Calico's limit.
const SIZE_MAX: u64 = 100 << 20;

/// Starts logging. Without a file to write to it is standard error.
pub fn start(conf: &Conf) {
    let level = match conf.log_level.as_deref() {
        Some("debug" | "trace") => LevelFilter::DEBUG,
        Some("warning" | "warn") => LevelFilter::WARN,
        Some("error" | "fatal" | "panic") => LevelFilter::ERROR,
        Some("none") => LevelFilter::OFF,
        _ => LevelFilter::INFO,
    };
    let base = tracing_subscriber::fmt().with_max_level(level).with_ansi(false).with_target(false);
    // Fails only if logging was started before.
    let _ = match conf.log_file.as_deref().map(open) {
        Some(Ok(file)) => base.with_writer(Mutex::new(file)).try_init(),
        _ => base.with_writer(io::stderr).try_init(),
    };
}

fn open(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    if fs::metadata(path).is_ok_and(|m| m.len() > SIZE_MAX) {
        let mut old = path.as_os_str().to_owned();
        old.push(".1");
        // Another call may have been quicker.
        let _ = fs::rename(path, old);
    }
    OpenOptions::new().append(true).create(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_long_file_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/cni.log");
        writeln!(open(&path).unwrap(), "one").unwrap();
        writeln!(open(&path).unwrap(), "two").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntwo\n");
        OpenOptions::new().write(true).open(&path).unwrap().set_len(SIZE_MAX + 1).unwrap();
        writeln!(open(&path).unwrap(), "three").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "three\n");
        assert_eq!(fs::metadata(dir.path().join("sub/cni.log.1")).unwrap().len(), SIZE_MAX + 1);
    }
}
