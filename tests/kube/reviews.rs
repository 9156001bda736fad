//! What a node may do, as the API server answers it.

use tortie::control::datastore::kubernetes::Source;
use tortie::control::datastore::kubernetes::rights::{self, Missing, User};
use tortie::testing::apiserver::{ApiServer, Groups};

fn missing(server: &ApiServer, user: User) -> Result<Vec<Missing>, String> {
    let folder = tempfile::tempdir().unwrap();
    let source = Source::Kubeconfig(server.kubeconfig(folder.path(), None));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(rights::missing(source, user)).map_err(|e| e.to_string())
}

#[test]
fn a_rule_that_lacks_is_written_down_as_it_is_to_be_added() {
    for (groups, group) in [(Groups::V1, "crd.projectcalico.org"), (Groups::V3, "projectcalico.org")] {
        let server = ApiServer::start();
        server.set_groups(groups);
        assert_eq!(missing(&server, User::Daemon), Ok(vec![]));
        assert_eq!(missing(&server, User::CniPlugin), Ok(vec![]));
        server.forbid("ipamhandles");
        server.forbid("events");
        let rules: Vec<String> = missing(&server, User::Daemon).unwrap().iter().map(Missing::rule).collect();
        let handles =
            format!(r#"{{apiGroups: ["{group}"], resources: ["ipamhandles"], verbs: ["get", "list", "create", "update", "delete"]}}"#);
        let events = r#"{apiGroups: [""], resources: ["events"], verbs: ["get", "create", "patch"]}"#;
        assert_eq!(rules, [handles.as_str(), events]);
        let plugin = missing(&server, User::CniPlugin).unwrap();
        assert!(plugin.len() == 1 && plugin[0].rule() == handles && plugin[0].need.essential, "{plugin:?}");
    }
}

#[test]
fn a_server_that_cannot_be_asked_is_said() {
    let server = ApiServer::start();
    server.set_groups(Groups::Neither);
    assert!(missing(&server, User::Daemon).unwrap_err().contains("none of Calico's definitions"));
    server.stop();
    assert!(missing(&server, User::Daemon).unwrap_err().contains("Connection refused"));
}
