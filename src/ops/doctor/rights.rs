//! What the node may do with the cluster's objects.

use super::{Finding, Machine, State};
use crate::control::config::{Config, Datastore};
use crate::control::datastore::kubernetes::Source;
use crate::control::datastore::kubernetes::rights::{self, Missing, ReviewError, User};
use std::time::Duration;

/// Longest wait for the API server's answers.
const PATIENCE: Duration = Duration::from_secs(20);
/// The plugin's kubeconfig in its folder of configurations, where the daemon has installed it.
const PLUGIN: &str = "calico-kubeconfig";

/// The answers for one user: what its credentials are refused.
pub(super) struct Reviewed {
    user: User,
    missing: Result<Vec<Missing>, String>,
}

/// Asks the API server, if that is the datastore.
pub(super) fn review(config: &Config) -> Vec<Reviewed> {
    let Datastore::Kubernetes { kubeconfig } = &config.datastore else { return Vec::new() };
    let own = Source::new(kubeconfig.as_deref());
    let mut all = vec![(User::Daemon, own.clone())];
    if let Some(cni) = &config.cni {
        let installed = cni.conf_dir.join(PLUGIN);
        all.push((User::CniPlugin, if installed.exists() { Source::Kubeconfig(installed) } else { own }));
    }
    let ask = |(user, source)| Reviewed { user, missing: blocking(source, user) };
    all.into_iter().map(ask).collect()
}

fn blocking(source: Source, user: User) -> Result<Vec<Missing>, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    runtime.block_on(async {
        match tokio::time::timeout(PATIENCE, rights::missing(source, user)).await {
            Ok(answer) => answer.map_err(|e: ReviewError| e.to_string()),
            Err(_) => Err(format!("the API server did not answer within {} s", PATIENCE.as_secs())),
        }
    })
}

pub(super) fn rbac(m: &Machine) -> Vec<Finding> {
    m.reviewed.iter().flat_map(findings).collect()
}

fn findings(r: &Reviewed) -> Vec<Finding> {
    let (check, who) = match r.user {
        User::Daemon => ("RBAC", "the daemon"),
        User::CniPlugin => ("RBAC of CNI", "the CNI plugin"),
    };
    let missing = match &r.missing {
        Ok(missing) => missing,
        Err(why) => {
            let remedy = "see whether the API server is reachable from here with these credentials";
            return vec![Finding::bad(check, State::Warning, format!("cannot be checked: {why}"), remedy)];
        }
    };
    if missing.is_empty() {
        let verbs: usize = r.user.needs().iter().map(|n| n.verbs.len()).sum();
        return vec![Finding::ok(check, format!("{who} may do all {verbs} things that it does"))];
    }
    let finding = |m: &Missing| {
        let state = if m.need.essential { State::Failure } else { State::Warning };
        let found = format!("{who} may not {} {}{}: {}", m.verbs.join(", "), m.need.resource, m.need.part, m.need.lost);
        Finding::bad(check, state, found, format!("add to the rules of its ClusterRole: - {}", m.rule()))
    };
    missing.iter().map(finding).collect()
}
