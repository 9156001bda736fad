//! `tortie version`: this program's, and the cluster's as its nodes recorded it.

use super::resource::Store;
use super::{Outcome, print};
use crate::control::resources::{Client, Kind};
use serde_json::Value;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    store: Store,
}

pub fn run(args: &Args) -> Outcome {
    print(&format!("Client Version:    v{}\n", env!("CARGO_PKG_VERSION")))?;
    let found =
        args.store.with(async |objects| Ok(Client::new(objects, objects.keeps()).get(Kind::ClusterInformation, None, "default").await));
    match found {
        Ok(Ok(info)) => {
            print(&cluster(&info))?;
            Ok(ExitCode::SUCCESS)
        }
        Ok(Err(e)) => Err(unknown(&e)),
        Err(e) => Err(unknown(&*e)),
    }
}

fn cluster(info: &Value) -> String {
    let text = |key: &str| info["spec"][key].as_str().filter(|t| !t.is_empty()).unwrap_or("unknown").to_owned();
    format!("Cluster Version:   {}\nCluster Type:      {}\n", text("calicoVersion"), text("clusterType"))
}

fn unknown(e: &dyn std::fmt::Display) -> Box<dyn std::error::Error> {
    format!("Unable to retrieve Cluster Version or Type: {e}").into()
}
