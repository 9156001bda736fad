//! The data plane's state as a document: `tortie state` saves it, other verbs work on it without a daemon.

use super::Outcome;
use crate::ops::api::{Client, DEFAULT_SOCKET};
use crate::ops::replay::State;
use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

/// Where a verb takes the state from.
#[derive(Debug, clap::Args)]
pub struct Source {
    /// A saved state instead of the daemon's present one
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// The daemon's API socket
    #[arg(long, default_value = DEFAULT_SOCKET, value_name = "PATH")]
    socket: PathBuf,
}

impl Source {
    pub fn load(&self) -> Result<State, Box<dyn Error>> {
        let Some(path) = &self.state else { return Ok(Client::new(&self.socket).state()?) };
        let text = fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
        State::read(&text).map_err(|e| format!("{}: {e}", path.display()).into())
    }
}

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    source: Source,
}

pub fn run(args: &Args) -> Outcome {
    let state = args.source.load()?;
    super::print(&(serde_json::to_string_pretty(&state)? + "\n"))?;
    Ok(ExitCode::SUCCESS)
}
