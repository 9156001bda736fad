//! Profile: what a Namespace allows by default and the labels that it and a ServiceAccount give to their pods.

use super::{V3, metadata, texts};
use serde_json::{Map, Value, json};

/// Profile `kns.NAME`.
pub fn of_namespace(namespace: &Value) -> Value {
    let name = namespace["metadata"]["name"].as_str().unwrap_or_default();
    let mut labels = applied(namespace, "pcns.");
    labels.insert("pcns.projectcalico.org/name".into(), json!(name));
    let mut profile = profile(&format!("kns.{name}"), namespace, labels);
    profile["spec"]["ingress"] = json!([allow()]);
    profile["spec"]["egress"] = json!([allow()]);
    profile
}

/// Profile `ksa.NAMESPACE.NAME`.
pub fn of_service_account(account: &Value) -> Value {
    let name = account["metadata"]["name"].as_str().unwrap_or_default();
    let namespace = account["metadata"]["namespace"].as_str().unwrap_or("default");
    let mut labels = applied(account, "pcsa.");
    labels.insert("pcsa.projectcalico.org/name".into(), json!(name));
    profile(&format!("ksa.{namespace}.{name}"), account, labels)
}

/// The profile that is always there.
pub fn default_allow() -> Value {
    let mut profile = profile("projectcalico-default-allow", &Value::Null, Map::new());
    profile["spec"] = json!({"ingress": [allow()], "egress": [allow()]});
    profile
}

fn allow() -> Value {
    json!({"action": "Allow", "destination": {}, "source": {}})
}

fn applied(of: &Value, prefix: &str) -> Map<String, Value> {
    texts(&of["metadata"]["labels"]).map(|(k, v)| (format!("{prefix}{k}"), json!(v))).collect()
}

fn profile(name: &str, of: &Value, labels: Map<String, Value>) -> Value {
    json!({"apiVersion": V3, "kind": "Profile", "metadata": metadata(name, of), "spec": {"labelsToApply": labels}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_of_namespaces_and_accounts() {
        let p = of_namespace(&json!({"metadata": {"name": "prod", "labels": {"team": "a"}}}));
        assert_eq!(p["metadata"]["name"], "kns.prod");
        assert_eq!(p["spec"]["labelsToApply"], json!({"pcns.projectcalico.org/name": "prod", "pcns.team": "a"}));
        assert_eq!(p["spec"]["ingress"], json!([{"action": "Allow", "source": {}, "destination": {}}]));
        let p = of_service_account(&json!({"metadata": {"name": "web", "namespace": "prod", "uid": "u"}}));
        assert_eq!((&p["metadata"], p["spec"].get("ingress")), (&json!({"name": "ksa.prod.web", "uid": "u"}), None));
        assert_eq!(p["spec"]["labelsToApply"], json!({"pcsa.projectcalico.org/name": "web"}));
    }
}
