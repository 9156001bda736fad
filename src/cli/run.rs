//! `tortie run`

use super::Outcome;
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The node's configuration (YAML; config/node.yaml documents every key)
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// Runs until SIGTERM or SIGINT. Logs go to standard error; RUST_LOG chooses what, `info` by default.
pub fn run(args: &Args) -> Outcome {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
    log.with_target(false).init();
    crate::ops::run(&args.config)?;
    Ok(ExitCode::SUCCESS)
}
