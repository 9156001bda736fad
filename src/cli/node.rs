//! `tortie node`: the node that this program runs on.

use super::{Outcome, diags};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Collect what is needed to understand this node from afar into one archive
    Diags(diags::Args),
}

pub fn run(args: &Args) -> Outcome {
    match &args.verb {
        Verb::Diags(a) => diags::run(a),
    }
}
