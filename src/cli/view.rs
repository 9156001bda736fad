//! What all views share: where to ask, and in which form to print.

use super::Outcome;
use super::table::Style;
use crate::ops::api::{Client, ClientError, DEFAULT_SOCKET};
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;

/// How a view is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    Table,
    Json,
    Yaml,
}

#[derive(Debug, clap::Args)]
pub struct View {
    /// Form of the output
    #[arg(short, long, value_enum, default_value = "table", value_name = "FORM")]
    pub output: Output,
    /// The daemon's API socket
    #[arg(long, default_value = DEFAULT_SOCKET, value_name = "PATH")]
    pub socket: PathBuf,
}

/// Asks the daemon and prints the answer.
pub fn show<T: Serialize>(
    args: &View,
    ask: impl FnOnce(&Client) -> Result<T, ClientError>,
    text: impl FnOnce(&T, Style) -> String,
) -> Outcome {
    let rows = ask(&Client::new(&args.socket))?;
    super::print(&render(args.output, &rows, text)?)?;
    Ok(ExitCode::SUCCESS)
}

/// `rows` in the form asked for; `text` makes the table.
pub fn render<T: Serialize>(
    output: Output,
    rows: &T,
    text: impl FnOnce(&T, Style) -> String,
) -> Result<String, Box<dyn std::error::Error>> {
    Ok(match output {
        Output::Table => text(rows, Style::of_stdout()),
        Output::Json => serde_json::to_string_pretty(rows)? + "\n",
        Output::Yaml => {
            let mut yaml = serde_saphyr::to_string(rows)?;
            if !yaml.ends_with('\n') {
                yaml.push('\n');
            }
            yaml
        }
    })
}
