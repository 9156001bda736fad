//! `tortie run`: the node daemon.

use super::Outcome;
use crate::cni::install::Installer;
use crate::control::config::{self, Config};
use crate::control::env::Environment;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The node's configuration
    #[arg(long, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    config: PathBuf,
    /// Take the place of the daemon that runs here, without losing packets; if none runs, just start
    #[arg(long)]
    takeover: bool,
}

/// Runs until SIGTERM or SIGINT. Logs to standard error, at level info unless `TORTIE_LOG` says otherwise.
pub fn run(args: &Args) -> Outcome {
    // The Kubernetes client logs every failed try; the datastore says it once.
    let filter = EnvFilter::try_from_env("TORTIE_LOG").unwrap_or_else(|_| EnvFilter::new("info,kube_client=off"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(false).with_target(false).init();
    // A configuration that cannot be read is the daemon's to report.
    if let Ok(config) = Config::load(&args.config, &Environment::of_process())
        && let Some(installer) = Installer::new(&args.config, &config)?
    {
        installer.start()?;
    }
    crate::ops::run(&args.config, args.takeover)?;
    Ok(ExitCode::SUCCESS)
}
