//! `probes` in the node's configuration, and the variables that go over it.

use crate::control::env::{EnvError, Environment, flag};
use crate::control::yaml::{Field, FieldError, quoted};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Between two rounds, unless told otherwise; and what may be asked for.
pub const INTERVAL: Duration = Duration::from_secs(1);
const INTERVALS: std::ops::RangeInclusive<Duration> = Duration::from_millis(500)..=Duration::from_secs(3600);

/// Variables for the keys enabled, interval and key-file.
pub const VARIABLES: [&str; 3] = ["TORTIE_PROBES", "TORTIE_PROBES_INTERVAL", "TORTIE_PROBES_KEY_FILE"];

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
                Some(text) => allowed(text).map_err(|fault| interval.error(format!("{} is {fault}", quoted(text))))?,
            },
            key_file: if key_file.is_present() { Some(folder.join(key_file.required_text()?)) } else { None },
        })
    }

    /// With what the environment says instead.
    pub fn over(self, env: &Environment, folder: &Path) -> Result<Settings, EnvError> {
        let [enabled, interval, key_file] = VARIABLES;
        Ok(Settings {
            enabled: env.read(enabled, flag)?.unwrap_or(self.enabled),
            interval: env.read(interval, allowed)?.unwrap_or(self.interval),
            key_file: env.get(key_file).map(|path| folder.join(path)).or(self.key_file),
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

fn allowed(text: &str) -> Result<Duration, String> {
    duration(text).filter(|d| INTERVALS.contains(d)).ok_or_else(|| "not a time from 500ms to 3600s, like 1s or 1500ms".into())
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
    fn the_environment_goes_over_the_file() {
        let file = Settings { enabled: true, interval: INTERVAL, key_file: Some("/a".into()) };
        let env = |all: &[(&str, &str)]| all.iter().copied().collect::<Environment>();
        let over = |all| file.clone().over(&env(all), Path::new("/etc/tortie"));
        assert_eq!(over(&[]), Ok(file.clone()));
        let all = [("TORTIE_PROBES", "no"), ("TORTIE_PROBES_INTERVAL", "5s"), ("TORTIE_PROBES_KEY_FILE", "key")];
        let want = Settings { enabled: false, interval: Duration::from_secs(5), key_file: Some("/etc/tortie/key".into()) };
        assert_eq!(over(&all), Ok(want));
        let fault = over(&[("TORTIE_PROBES_INTERVAL", "1m")]).unwrap_err().to_string();
        assert!(fault.contains("TORTIE_PROBES_INTERVAL=\"1m\": not a time from 500ms"), "{fault}");
        assert!(over(&[("TORTIE_PROBES", "maybe")]).is_err());
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
