//! `tortie node diags`

use super::{Outcome, print};
use crate::ops::api::{Client, DEFAULT_SOCKET};
use crate::ops::diags::Bundle;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The node's configuration
    #[arg(long, value_name = "FILE", default_value = crate::control::config::DEFAULT_PATH)]
    config: PathBuf,
    /// The daemon's API socket
    #[arg(long, default_value = DEFAULT_SOCKET, value_name = "PATH")]
    socket: PathBuf,
    /// Where to write the archive
    #[arg(long, default_value = ".", value_name = "FOLDER")]
    dir: PathBuf,
}

pub fn run(args: &Args) -> Outcome {
    let bundle = Bundle::collect(&args.config, &args.socket);
    let node = Client::new(&args.socket).status().map_or_else(|_| "node".into(), |s| s.node);
    let path = bundle.save(&args.dir, &node).map_err(|e| format!("cannot write the archive into {}: {e}", args.dir.display()))?;
    let mut text = format!("Diags saved to {}: {} files\n", path.display(), bundle.files.len());
    if !bundle.missing.is_empty() {
        text.push_str("Missing, as missing.txt in it says:\n");
        bundle.missing.iter().for_each(|m| text.push_str(&format!("  {m}\n")));
    }
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}
