//! `tortie log-level`

use super::Outcome;
use super::view::{self, View};
use crate::control::logging::Level;
use crate::ops::api::DEFAULT_LEVEL;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    view: View,
    /// off, error, warn, info, debug, trace; or default, for the configured one again
    #[arg(value_parser = word)]
    level: Option<String>,
}

fn word(text: &str) -> Result<String, String> {
    if text == DEFAULT_LEVEL {
        return Ok(text.into());
    }
    text.parse::<Level>().map(|l| l.name().into()).map_err(|e| format!("{e}, {DEFAULT_LEVEL}"))
}

/// Shows the level, or sets it until the daemon's next start or reload.
pub fn run(args: &Args) -> Outcome {
    let ask = |c: &crate::ops::api::Client| match &args.level {
        Some(level) => c.set_log_level(level),
        None => c.log_level(),
    };
    view::show(&args.view, ask, |row, _| format!("{} ({})\n", row.level, row.source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        assert_eq!((word("Warning"), word("default")), (Ok("warn".into()), Ok("default".into())));
        assert!(word("loud").unwrap_err().ends_with("trace, default"));
    }
}
