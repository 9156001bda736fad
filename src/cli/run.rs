//! `tortie run`: the node daemon.

use super::Outcome;
use crate::cni::install::Installer;
use crate::control::config::{self, Config};
use crate::control::env::Environment;
use crate::control::logging;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The node's configuration
    #[arg(long, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    config: PathBuf,
    /// Take the place of the daemon that runs here, without losing packets; if none runs, just start
    #[arg(long)]
    takeover: bool,
}

/// Runs until SIGTERM or SIGINT.
pub fn run(args: &Args) -> Outcome {
    let config = Config::load(&args.config, &Environment::of_process());
    let log = config.as_ref().map(|c| (c.log.format, c.felix.log.or(c.log.level))).unwrap_or_default();
    logging::start(log.0, log.1.unwrap_or_default(), std::env::var(logging::VARIABLE).ok())?;
    // A configuration that cannot be read is the daemon's to report.
    if let Ok(config) = config
        && let Some(installer) = Installer::new(&args.config, &config)?
    {
        installer.start()?;
    }
    crate::ops::run(&args.config, args.takeover)?;
    Ok(ExitCode::SUCCESS)
}
