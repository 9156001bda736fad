//! The CNI plugin: how container runtimes attach pods. By the specification's versions 0.3.0 to 1.1.0
//! (containernetworking/cni, SPEC.md) and by Calico's conventions, so that its configuration, its names and its
//! addresses stay what they are.
//!
//! One program, two plugins, by the name it is called by: `tortie` attaches pods, `tortie-ipam` gives out addresses
//! alone, for other plugins.

mod add;
pub mod conf;
mod daemon;
mod delegate;
pub mod env;
pub mod error;
mod inspect;
pub mod install;
pub mod interface;
mod ipam;
mod log;
pub mod plugin;
pub mod record;
mod remove;
pub mod request;
pub mod result;
mod store;
pub mod workload;

use conf::Conf;
use env::{Call, Command};
use error::{CniError, io};
use result::Version;
use serde_json::Value;
use std::io::{Read, Write};
use std::path::Path;
use std::process::ExitCode;

/// Longest configuration that is read, bytes.
const STDIN_MAX: u64 = 16 << 20;

/// Which of the two plugins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Network,
    Ipam,
}

impl Role {
    /// By the name of the program.
    fn of(program: &str) -> Role {
        let name = Path::new(program).file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if name.ends_with("-ipam") { Role::Ipam } else { Role::Network }
    }
}

/// Whether a container runtime calls: it sets CNI_COMMAND, and gives no arguments.
pub fn is_called() -> bool {
    std::env::var_os("CNI_COMMAND").is_some() && std::env::args_os().len() <= 1
}

/// Carries out one command: result or error as JSON on standard output.
pub fn main() -> ExitCode {
    let role = Role::of(&std::env::args().next().unwrap_or_default());
    let mut text = String::new();
    let read = std::io::stdin().take(STDIN_MAX).read_to_string(&mut text).map_err(io("read the network configuration"));
    let get = |name: &str| std::env::var(name).unwrap_or_default();
    let outcome = read.and_then(|_| run(role, get, &text));
    let (answer, code) = match outcome {
        Ok(answer) => (answer, ExitCode::SUCCESS),
        Err(e) => {
            tracing::warn!("{} {}: {e}", get("CNI_COMMAND"), get("CNI_CONTAINERID"));
            (e.to_json(conf::version_of(&text)), ExitCode::FAILURE)
        }
    };
    let printed = match answer {
        Value::Null => Ok(()),
        answer => writeln!(std::io::stdout(), "{answer}"),
    };
    if printed.is_err() { ExitCode::FAILURE } else { code }
}

/// The answer to a call; `Null` for those that have none.
fn run(role: Role, get: impl Fn(&str) -> String, text: &str) -> Result<Value, CniError> {
    let call = Call::new(get)?;
    if call.command == Command::Version {
        return Ok(conf::version_of(text).report());
    }
    let conf = Conf::parse(text)?;
    log::start(&conf);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(io("start the runtime"))?;
    let answer = runtime.block_on(async {
        let (store, form) = match (store::open(&conf).await, call.command) {
            // Without its configuration there is no datastore either.
            (Err(e), Command::Status) => return Err(CniError::NotReady(e.to_string())),
            (opened, _) => opened?,
        };
        let plugin = plugin::Plugin { conf, store, form, path: call.path.clone() };
        plugin.serve(role, &call).await
    })?;
    Ok(answer)
}

impl<O: crate::control::datastore::objects::Objects> plugin::Plugin<O> {
    /// Carries out a call.
    pub async fn serve(&self, role: Role, call: &Call) -> Result<Value, CniError> {
        let version = self.conf.version;
        match call.command {
            Command::Check => self.since("CHECK", Version::V040)?,
            Command::Gc => self.since("GC", Version::V110)?,
            Command::Status => self.since("STATUS", Version::V110)?,
            _ => {}
        }
        match (role, call.command) {
            (_, Command::Version) => return Ok(version.report()),
            (Role::Network, Command::Add) => return Ok(self.add(call.container()?).await?.to_json(version)),
            (Role::Ipam, Command::Add) => return Ok(self.add_address(call.container()?).await?.to_json(version)),
            (Role::Network, Command::Del) => self.detach(call.container()?).await?,
            (Role::Ipam, Command::Del) => self.release(call.container()?).await?,
            (Role::Network, Command::Check) => self.check(call.container()?).await?,
            (Role::Ipam, Command::Check) => self.check_ipam(call.container()?).await?,
            (Role::Network, Command::Gc) => self.collect().await?,
            (Role::Ipam, Command::Gc) => self.collect_addresses().await?,
            (Role::Network, Command::Status) => self.status().await?,
            (Role::Ipam, Command::Status) => self.datastore_status().await?,
        }
        Ok(Value::Null)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_chooses_the_plugin() {
        assert_eq!(
            ["/opt/cni/bin/tortie", "tortie", "/x/tortie-ipam", "calico-ipam"].map(Role::of),
            [Role::Network, Role::Network, Role::Ipam, Role::Ipam]
        );
    }

    #[test]
    fn version_answers_in_the_version_that_is_asked_in() {
        let get = |name: &str| if name == "CNI_COMMAND" { "VERSION".to_owned() } else { String::new() };
        let answer = run(Role::Network, get, r#"{"cniVersion":"0.4.0"}"#).unwrap();
        assert_eq!(
            answer,
            serde_json::json!({ "cniVersion": "0.4.0", "supportedVersions": ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] })
        );
        assert_eq!(run(Role::Ipam, get, "").unwrap()["cniVersion"], "1.1.0");
    }
}
