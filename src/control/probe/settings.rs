//! `probes` in the node's configuration.

use crate::control::yaml::{Field, FieldError, quoted};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Between two rounds, unless told otherwise; and what may be asked for.
pub const INTERVAL: Duration = Duration::from_secs(1);
const INTERVALS: std::ops::RangeInclusive<Duration> = Duration::from_millis(500)..=Duration::from_secs(3600);

/// Whether, how often and with which key peers are measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub enabled: bool,
    pub interval: Duration,
    /// File with the key; without it the key follows from the cluster's GUID.
    pub key_file: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { enabled: true, interval: INTERVAL, key_file: None }
    }
}

impl Settings {
    /// Reads the keys enabled, interval and key-file.
    pub fn read(f: &Field, folder: &Path) -> Result<Settings, FieldError> {
        f.only(&["enabled", "interval", "key-file"])?;
        let (interval, key_file) = (f.get("interval")?, f.get("key-file")?);
        Ok(Settings {
            enabled: f.get("enabled")?.boolean()?.unwrap_or(true),
            interval: match interval.text()? {
                None => INTERVAL,
                Some(text) => duration(text)
                    .filter(|d| INTERVALS.contains(d))
                    .ok_or_else(|| interval.error(format!("{} is not a time from 500ms to 3600s, like 1s or 1500ms", quoted(text))))?,
            },
            key_file: if key_file.is_present() { Some(folder.join(key_file.required_text()?)) } else { None },
        })
    }

    /// What the key is made of, or why there are no probes.
    pub fn secret(&self, guid: Option<&str>) -> Result<Arc<[u8]>, String> {
        if !self.enabled {
            return Err("probes: {enabled: false} in this node's configuration".into());
        }
        match (&self.key_file, guid) {
            (Some(path), _) => match fs::read(path) {
                Ok(key) if key.trim_ascii().is_empty() => Err(format!("probes.key-file {} is empty", path.display())),
                Ok(key) => Ok(key.trim_ascii().into()),
                Err(e) => Err(format!("probes.key-file {} cannot be read: {e}", path.display())),
            },
            (None, Some(guid)) => Ok(guid.as_bytes().into()),
            (None, None) => Err("there is no key: ClusterInformation default has no clusterGUID, and probes.key-file is not set".into()),
        }
    }

    /// As `interval` is written.
    pub fn interval_text(&self) -> String {
        if self.interval.subsec_millis() == 0 {
            format!("{}s", self.interval.as_secs())
        } else {
            format!("{}ms", self.interval.as_millis())
        }
    }
}

/// A whole number of seconds or milliseconds with its unit.
fn duration(text: &str) -> Option<Duration> {
    if let Some(ms) = text.strip_suffix("ms") {
        return ms.parse().ok().map(Duration::from_millis);
    }
    text.strip_suffix('s')?.parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        let ms = |text| duration(text).map(|d| d.as_millis());
        assert_eq!((ms("1s"), ms("1500ms"), ms("1"), ms("1m"), ms("-1s"), ms("s")), (Some(1000), Some(1500), None, None, None, None));
        for ms in [500, 1000, 1500, 60_000] {
            let s = Settings { interval: Duration::from_millis(ms), ..Settings::default() };
            assert_eq!(duration(&s.interval_text()), Some(s.interval));
        }
    }

    #[test]
    fn the_key_is_the_files_or_the_clusters() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        fs::write(&path, "secret\n").unwrap();
        let with = Settings { key_file: Some(path.clone()), ..Settings::default() };
        assert_eq!(&*with.secret(Some("guid")).unwrap(), b"secret");
        assert_eq!(&*Settings::default().secret(Some("guid")).unwrap(), b"guid");
        assert!(Settings::default().secret(None).unwrap_err().contains("no clusterGUID"));
        assert!(Settings { enabled: false, ..with.clone() }.secret(Some("guid")).unwrap_err().contains("enabled: false"));
        fs::write(&path, " \n").unwrap();
        assert!(with.secret(Some("guid")).unwrap_err().ends_with("is empty"));
        fs::remove_file(&path).unwrap();
        assert!(with.secret(None).unwrap_err().contains("cannot be read"));
    }
}
