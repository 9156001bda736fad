//! The daemon's log: in which form it is written and where to, at which level, and its last lines for whoever looks.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Write};
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::reload;
use tracing_subscriber::{EnvFilter, Registry};

/// Directives in tracing's own words; they go over every other setting of the level.
pub const VARIABLE: &str = "TORTIE_LOG";
/// Lines kept in memory, and the most of each, bytes.
const KEPT: usize = 2000;
const LINE_MAX: usize = 2048;

/// How the log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Lines for people, on standard error.
    #[default]
    Text,
    /// One JSON object a line, on standard error.
    Json,
    /// To systemd's journal, with fields.
    Journald,
}

impl Format {
    pub const ALL: [(&'static str, Format); 3] = [("text", Format::Text), ("json", Format::Json), ("journald", Format::Journald)];

    pub fn name(self) -> &'static str {
        Format::ALL.iter().find(|(_, f)| *f == self).map_or("", |(name, _)| name)
    }
}

/// What is written: this and everything more severe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Off,
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

impl Level {
    pub const ALL: [(&'static str, Level); 6] = [
        ("off", Level::Off),
        ("error", Level::Error),
        ("warn", Level::Warn),
        ("info", Level::Info),
        ("debug", Level::Debug),
        ("trace", Level::Trace),
    ];

    pub fn name(self) -> &'static str {
        Level::ALL.iter().find(|(_, l)| *l == self).map_or("", |(name, _)| name)
    }

    /// What other crates say in detail is of no use to operators, and the Kubernetes client logs every failed try, which
    /// the datastore says once.
    fn directives(self) -> String {
        if self > Level::Info {
            return format!("info,tortie={},kube_client=off", self.name());
        }
        format!("{},kube_client=off", self.name())
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Level {
    type Err = String;

    /// Our words and Felix's, in any case. There is no level for what is fatal: the program ends, and that is an error.
    fn from_str(text: &str) -> Result<Level, String> {
        let lower = text.to_lowercase();
        let ours = Level::ALL.iter().find(|(name, _)| *name == lower).map(|(_, l)| *l);
        let felix = match lower.as_str() {
            "warning" => Some(Level::Warn),
            "fatal" => Some(Level::Error),
            "none" => Some(Level::Off),
            _ => None,
        };
        ours.or(felix).ok_or_else(|| format!("{text:?} is not one of {}", Level::ALL.map(|(name, _)| name).join(", ")))
    }
}

/// Why the log cannot be written as it is wanted.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("log.format: journald: {0}: systemd-journald does not listen here; set text or json")]
    Journald(io::Error),
    #[error("environment variable {VARIABLE}={value:?}: {source}")]
    Variable { value: String, source: tracing_subscriber::filter::ParseError },
    #[error("the log was set up before: {0}")]
    Again(#[from] tracing::subscriber::SetGlobalDefaultError),
}

/// Puts a filter in force.
type Apply = Box<dyn Fn(EnvFilter) + Send + Sync>;

/// The level in force and where it comes from.
pub struct Log {
    state: Mutex<State>,
    apply: Apply,
    lines: Arc<Lines>,
}

struct State {
    /// By configuration, environment and FelixConfiguration.
    configured: Level,
    /// By `tortie log-level`.
    chosen: Option<Level>,
    /// By `TORTIE_LOG`.
    directives: Option<String>,
}

/// What is written now, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InForce {
    /// A level's name, or directives.
    pub level: String,
    pub source: &'static str,
}

impl Log {
    fn new(configured: Level, directives: Option<String>, apply: Apply, lines: Arc<Lines>) -> Log {
        Log { state: Mutex::new(State { configured, chosen: None, directives }), apply, lines }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The level that is configured now. What was chosen while running stays.
    pub fn configure(&self, level: Level) {
        let mut state = self.lock();
        if std::mem::replace(&mut state.configured, level) != level {
            self.put_in_force(&state);
        }
    }

    /// Chooses a level until the next choice or reload; `None`: as configured.
    pub fn choose(&self, level: Option<Level>) {
        let mut state = self.lock();
        if std::mem::replace(&mut state.chosen, level) != level {
            self.put_in_force(&state);
        }
    }

    fn put_in_force(&self, state: &State) {
        let text = match (state.chosen, &state.directives) {
            (Some(level), _) => level.directives(),
            (None, Some(directives)) => directives.clone(),
            (None, None) => state.configured.directives(),
        };
        // The directives were parsed once already.
        (self.apply)(EnvFilter::new(text));
    }

    pub fn in_force(&self) -> InForce {
        let state = self.lock();
        match (state.chosen, &state.directives) {
            (Some(level), _) => InForce { level: level.name().into(), source: "tortie log-level" },
            (None, Some(directives)) => InForce { level: directives.clone(), source: VARIABLE },
            (None, None) => InForce { level: state.configured.name().into(), source: "configuration" },
        }
    }

    /// The last lines, oldest first.
    pub fn lines(&self) -> Vec<String> {
        self.lines.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

/// The last lines of the log.
#[derive(Debug, Default)]
struct Lines(Mutex<VecDeque<String>>);

/// A writer that keeps what it is given, a line at a time.
struct Keeper(Arc<Lines>);

impl<'a> MakeWriter<'a> for Keeper {
    type Writer = &'a Lines;

    fn make_writer(&'a self) -> &'a Lines {
        &self.0
    }
}

impl Write for &Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(&line[..line.len().min(LINE_MAX)]).trim_end().to_owned();
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == KEPT {
            lines.pop_front();
        }
        lines.push_back(text);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

static LOG: OnceLock<Log> = OnceLock::new();

/// This process's log, once it was started.
pub fn get() -> Option<&'static Log> {
    LOG.get()
}

fn text<S>() -> tracing_subscriber::fmt::Layer<S> {
    tracing_subscriber::fmt::Layer::default().with_ansi(false).with_target(false)
}

/// Starts this process's log. `variable` is the value of [`VARIABLE`].
pub fn start(format: Format, level: Level, variable: Option<String>) -> Result<(), LogError> {
    let directives = variable.filter(|v| !v.is_empty());
    let filter = match &directives {
        Some(value) => EnvFilter::try_new(value).map_err(|source| LogError::Variable { value: value.clone(), source })?,
        None => EnvFilter::new(level.directives()),
    };
    let (filter, handle) = reload::Layer::new(filter);
    let out: Box<dyn Layer<_> + Send + Sync> = match format {
        Format::Text => Box::new(text().with_writer(io::stderr)),
        Format::Json => Box::new(text().json().flatten_event(true).with_writer(io::stderr)),
        Format::Journald => Box::new(tracing_journald::layer().map_err(LogError::Journald)?.with_syslog_identifier("tortie".into())),
    };
    let lines = Arc::new(Lines::default());
    let kept = text().with_writer(Keeper(lines.clone()));
    tracing::subscriber::set_global_default(Registry::default().with(filter).with(out).with(kept))?;
    // Fails only if the subscriber is gone, and it is the process's.
    let apply = Box::new(move |f| drop(handle.reload(f)));
    drop(LOG.set(Log::new(level, directives, apply, lines)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(directives: Option<&str>) -> (Log, Arc<Mutex<Vec<String>>>) {
        let applied = Arc::new(Mutex::new(Vec::new()));
        let list = applied.clone();
        let apply = Box::new(move |f: EnvFilter| list.lock().unwrap().push(f.to_string()));
        (Log::new(Level::Info, directives.map(Into::into), apply, Arc::default()), applied)
    }

    #[test]
    fn felix_words_and_ours() {
        for (text, want) in
            [("Info", Level::Info), ("WARNING", Level::Warn), ("fatal", Level::Error), ("none", Level::Off), ("trace", Level::Trace)]
        {
            assert_eq!(text.parse(), Ok(want));
        }
        assert!("loud".parse::<Level>().unwrap_err().contains("not one of off, error, warn, info, debug, trace"));
    }

    #[test]
    fn a_choice_goes_over_the_configuration_and_directives_over_that_until_then() {
        let (log, applied) = log(None);
        let in_force = |log: &Log| (log.in_force().level, log.in_force().source);
        log.configure(Level::Info);
        assert_eq!(applied.lock().unwrap().len(), 0, "nothing new");
        log.configure(Level::Warn);
        assert_eq!(in_force(&log), ("warn".into(), "configuration"));
        log.choose(Some(Level::Debug));
        log.configure(Level::Error);
        assert_eq!(in_force(&log), ("debug".into(), "tortie log-level"));
        log.choose(None);
        assert_eq!(in_force(&log), ("error".into(), "configuration"));
        let last = applied.lock().unwrap().last().cloned().unwrap();
        assert!(last.contains("error") && last.contains("kube_client=off"), "{last}");
        assert!(applied.lock().unwrap().iter().any(|f| f.contains("tortie=debug") && f.contains("info")), "{applied:?}");

        let (log, _) = self::log(Some("tortie::control=trace"));
        log.configure(Level::Error);
        assert_eq!(in_force(&log), ("tortie::control=trace".into(), VARIABLE));
        log.choose(Some(Level::Off));
        assert_eq!(in_force(&log), ("off".into(), "tortie log-level"));
    }

    #[test]
    fn the_last_lines_are_kept() {
        let lines = Lines::default();
        for i in 0..KEPT + 5 {
            (&lines).write_all(format!("line {i}\n").as_bytes()).unwrap();
        }
        (&lines).write_all(&[b'x'; LINE_MAX * 2]).unwrap();
        let kept = lines.0.lock().unwrap();
        assert_eq!((kept.len(), kept[0].as_str(), kept[KEPT - 1].len()), (KEPT, "line 6", LINE_MAX));
    }
}
