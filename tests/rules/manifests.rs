//! config/: every YAML file parses; Kubernetes' own kinds hold nothing that Kubernetes' types do not know; alerts and
//! dashboard ask for metrics and labels that exist.

use crate::source::{files, root};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use tortie::control::config::{Config, Datastore};
use tortie::control::datastore::kubernetes::rights::User;
use tortie::control::datastore::kubernetes::{Group, plural};
use tortie::control::env::Environment;
use tortie::drop::{DropReason, PuntReason};
use tortie::ops::metrics::family::{ALL, Type};

fn documents(text: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

/// All objects below config/kubernetes, by file.
fn objects() -> Vec<(String, Value)> {
    let all = files("config/kubernetes", &["yaml"]).into_iter();
    let each = all.flat_map(|f| {
        let text = fs::read_to_string(root().join(&f)).expect("readable");
        documents(&text).into_iter().map(move |d| (f.display().to_string(), d)).collect::<Vec<_>>()
    });
    each.collect()
}

/// What `found` has and the typed object, written again, has not.
fn lost(found: &Value, typed: &Value, at: &str, out: &mut Vec<String>) {
    match (found, typed) {
        (Value::Object(a), Value::Object(b)) => {
            for (k, v) in a {
                match b.get(k) {
                    Some(w) => lost(v, w, &format!("{at}.{k}"), out),
                    None => out.push(format!("{at}.{k}")),
                }
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).enumerate().for_each(|(i, (v, w))| lost(v, w, &format!("{at}[{i}]"), out));
        }
        (a, b) if a == b => {}
        _ => out.push(at.to_owned()),
    }
}

/// Reads an object as its type, and says which fields the type does not know.
fn read<T: DeserializeOwned + Serialize>(object: &Value) -> Result<T, String> {
    let typed: T = serde_json::from_value(object.clone()).map_err(|e| e.to_string())?;
    let mut unknown = Vec::new();
    lost(object, &serde_json::to_value(&typed).expect("serialisable"), "", &mut unknown);
    if unknown.is_empty() { Ok(typed) } else { Err(format!("unknown or of another type: {}", unknown.join(", "))) }
}

fn check(object: &Value) -> Result<(), String> {
    let kind = (object["apiVersion"].as_str().unwrap_or_default(), object["kind"].as_str().unwrap_or_default());
    match kind {
        ("apps/v1", "DaemonSet") => read::<DaemonSet>(object).map(drop),
        ("v1", "ConfigMap") => read::<ConfigMap>(object).map(drop),
        ("v1", "Service") => read::<Service>(object).map(drop),
        ("v1", "ServiceAccount") => read::<ServiceAccount>(object).map(drop),
        ("rbac.authorization.k8s.io/v1", "ClusterRole") => read::<ClusterRole>(object).map(drop),
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding") => read::<ClusterRoleBinding>(object).map(drop),
        // Not Kubernetes' own: apiVersion, kind and a name are all that can be asked for here.
        ("crd.projectcalico.org/v1", "IPPool" | "FelixConfiguration")
        | ("monitoring.coreos.com/v1", "ServiceMonitor" | "PrometheusRule") => {
            if object["metadata"]["name"].is_string() && object["spec"].is_object() { Ok(()) } else { Err("no name or no spec".into()) }
        }
        ("kustomize.config.k8s.io/v1beta1", "Kustomization") | ("kustomize.config.k8s.io/v1alpha1", "Component") => Ok(()),
        other => Err(format!("{other:?} is not a kind that this test knows")),
    }
}

#[test]
fn kubernetes_reads_every_field_of_every_manifest() {
    let all = objects();
    assert!(all.len() >= 12, "{}", all.len());
    let wrong: Vec<String> = all.iter().filter_map(|(f, o)| check(o).err().map(|e| format!("{f}: {e}"))).collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn a_misspelt_or_misplaced_field_is_found() {
    let (_, good) = objects().into_iter().find(|(_, o)| o["kind"] == "DaemonSet").expect("a DaemonSet");
    assert_eq!(check(&good), Ok(()));
    for (pointer, key) in [("/spec/template/spec", "hostNetwrok"), ("/spec/template/spec/containers/0/livenessProbe", "periodSecond")] {
        let mut bad = good.clone();
        bad.pointer_mut(pointer).expect("there").as_object_mut().expect("a mapping").insert(key.into(), true.into());
        assert!(check(&bad).expect_err("unknown").contains(key));
    }
    let mut bad = good;
    bad["spec"]["template"]["spec"]["hostNetwork"] = "yes".into();
    check(&bad).expect_err("a boolean is required");
}

#[test]
fn the_daemonset_hangs_together() {
    let all = objects();
    let of = |kind: &str| &all.iter().find(|(_, o)| o["kind"] == kind).unwrap_or_else(|| panic!("no {kind}")).1;
    let d: DaemonSet = read(of("DaemonSet")).expect("a DaemonSet");
    let selected = d.spec.selector.match_labels.expect("matchLabels");
    let pod = d.spec.template;
    let labels = pod.metadata.expect("metadata").labels.expect("labels");
    assert!(!selected.is_empty() && selected.iter().all(|(k, v)| labels.get(k) == Some(v)), "the DaemonSet finds its pods");
    let service: Service = read(of("Service")).expect("a Service");
    let selector = service.spec.expect("spec").selector.expect("selector");
    assert!(selector.iter().all(|(k, v)| labels.get(k) == Some(v)), "the Service finds the pods");
    let spec = pod.spec.expect("spec");
    assert_eq!(spec.service_account_name.as_deref(), of("ServiceAccount")["metadata"]["name"].as_str());
    assert_eq!((spec.host_network, spec.priority_class_name.as_deref()), (Some(true), Some("system-node-critical")));
    let volumes: Vec<String> = spec.volumes.expect("volumes").into_iter().map(|v| v.name).collect();
    let container = &spec.containers[0];
    for m in container.volume_mounts.iter().flatten() {
        assert!(volumes.contains(&m.name), "{}", m.name);
    }
    let add = container.security_context.as_ref().and_then(|s| s.capabilities.as_ref()).and_then(|c| c.add.clone()).expect("capabilities");
    assert!(["NET_ADMIN", "NET_RAW", "BPF"].into_iter().all(|c| add.contains(&c.to_owned())) && !add.contains(&"SYS_ADMIN".to_owned()));
    // Every resource and verb is named; no rule takes all of them.
    let role: ClusterRole = read(of("ClusterRole")).expect("a ClusterRole");
    for r in role.rules.expect("rules") {
        let words = r.api_groups.iter().flatten().chain(r.resources.iter().flatten()).chain(&r.verbs);
        assert!(words.into_iter().all(|w| w != "*"), "{:?}", r.resources);
    }
}

/// Whatever `tortie doctor` asks the API server for, the ClusterRole grants.
#[test]
fn the_clusterrole_grants_what_is_needed() {
    let all = objects();
    let role = &all.iter().find(|(_, o)| o["kind"] == "ClusterRole").expect("a ClusterRole").1;
    let rules = read::<ClusterRole>(role).expect("a ClusterRole").rules.expect("rules");
    let grants = |group: &str, resource: &str, verb: &str| {
        let has = |list: &Option<Vec<String>>, word: &str| list.iter().flatten().any(|w| w == word);
        rules.iter().any(|r| has(&r.api_groups, group) && has(&r.resources, resource) && r.verbs.iter().any(|v| v == verb))
    };
    for user in [User::Daemon, User::CniPlugin] {
        for need in user.needs() {
            for group in [Group::V1, Group::V3] {
                let api_group = if need.resource.is_core() { "" } else { group.api_version().split('/').next().expect("a group") };
                let resource = format!("{}{}", plural(need.resource, group), need.part);
                for verb in need.verbs {
                    assert!(grants(api_group, &resource, verb), "{user:?}: {verb} {resource} in {api_group:?}");
                }
            }
        }
    }
}

/// The daemon reads what the ConfigMap holds.
#[test]
fn the_configmap_holds_a_configuration() {
    let all = objects();
    let map = &all.iter().find(|(_, o)| o["kind"] == "ConfigMap").expect("a ConfigMap").1;
    let text = map["data"]["node.yaml"].as_str().expect("node.yaml");
    let probes = &all.iter().find(|(_, o)| o["kind"] == "DaemonSet").expect("a DaemonSet").1;
    let dir = root().join("target/tmp");
    fs::create_dir_all(&dir).expect("target/tmp");
    let path = dir.join(format!("configmap-{}.yaml", std::process::id()));
    fs::write(&path, format!("node: a\n{text}")).expect("writable");
    let config = Config::load(&path, &Environment::default());
    fs::remove_file(&path).expect("removable");
    let config = config.unwrap_or_else(|e| panic!("{e}\n{text}"));
    assert_eq!((&config.datastore, config.cni.is_some()), (&Datastore::Kubernetes { kubeconfig: None }, true));
    let health = config.monitoring.health().expect("health is on: the probes ask for it");
    let probe = &probes["spec"]["template"]["spec"]["containers"][0]["livenessProbe"]["httpGet"];
    assert_eq!((probe["port"].as_u64(), probe["host"].as_str()), (Some(u64::from(health.port)), Some(health.host.as_str())));
}

#[test]
fn sample_configurations_load() {
    let mut seen = 0;
    for file in files("config", &["yaml"]) {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if file.parent() == Some(&root().join("config")) && name.starts_with("node") {
            Config::load(&root().join(&file), &Environment::default()).unwrap_or_else(|e| panic!("{e}"));
            seen += 1;
        }
    }
    assert!(seen > 0);
}

/// What a PromQL expression names that this program exports: metric and label matchers.
fn metrics(expr: &str) -> Vec<(String, Vec<(String, String)>)> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut out = Vec::new();
    for prefix in ["tortie_", "felix_", "process_"] {
        for (at, _) in expr.match_indices(prefix) {
            if expr[..at].ends_with(word) {
                continue;
            }
            let rest = &expr[at..];
            let end = rest.find(|c| !word(c)).unwrap_or(rest.len());
            let matchers = rest[end..].strip_prefix('{').and_then(|m| m.split_once('}')).map_or("", |(m, _)| m);
            let pair = |m: &str| {
                let (label, value) = m.split_once(['=', '!']).expect("a matcher");
                (label.trim().to_owned(), value.trim_matches(['=', '~', '"', ' ']).to_owned())
            };
            out.push((rest[..end].to_owned(), matchers.split(',').filter(|m| !m.trim().is_empty()).map(pair).collect()));
        }
    }
    out
}

/// Labels that Prometheus adds when it scrapes.
const SCRAPED: &[&str] = &["instance", "job", "node"];

/// What an expression asks for that is not there.
fn unknown(expr: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let found = metrics(expr);
    if found.is_empty() {
        wrong.push(format!("no metric of ours in {expr}"));
    }
    for (name, matchers) in found {
        let family = ALL.iter().find(|f| {
            f.name == name || (f.kind == Type::Summary && [format!("{}_sum", f.name), format!("{}_count", f.name)].contains(&name))
        });
        let known: &[&str] = match family {
            Some(f) => f.labels,
            None if ["process_cpu_seconds_total", "process_resident_memory_bytes"].contains(&name.as_str()) => &[],
            None => {
                wrong.push(format!("no metric {name}"));
                continue;
            }
        };
        for (label, value) in matchers {
            if !known.contains(&label.as_str()) && !SCRAPED.contains(&label.as_str()) {
                wrong.push(format!("{name} has no label {label}"));
            }
            let reasons = || DropReason::ALL.iter().map(|r| r.name()).chain(PuntReason::ALL.iter().map(|r| r.name()));
            for v in value.split('|').filter(|_| label == "reason") {
                let hit = reasons().any(|r| v.strip_suffix(".*").map_or(r == v, |start| r.starts_with(start)));
                if !hit {
                    wrong.push(format!("no reason {v}"));
                }
            }
        }
    }
    wrong
}

fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

#[test]
fn alerts_ask_for_metrics_that_exist_and_point_into_the_runbook() {
    let rules = documents(&text("config/monitoring/rules.yaml")).remove(0);
    let operator = documents(&text("config/kubernetes/components/monitoring/rules.yaml")).remove(0);
    assert_eq!(operator["spec"], rules, "both files hold the same rules");
    let runbook = text("docs/operate.md");
    let anchors: Vec<String> = runbook
        .lines()
        .filter_map(|l| l.strip_prefix("## "))
        .map(|l| l.to_lowercase().chars().filter(|c| c.is_alphanumeric() || " -".contains(*c)).collect::<String>().replace(' ', "-"))
        .collect();
    let rules = rules["groups"][0]["rules"].as_array().expect("rules").clone();
    assert!(rules.len() >= 8);
    for r in rules {
        let wrong = unknown(r["expr"].as_str().expect("expr"));
        assert!(wrong.is_empty(), "{}: {wrong:?}", r["alert"]);
        let page = r["annotations"]["runbook"].as_str().and_then(|p| p.strip_prefix("docs/operate.md#")).expect("a place in the runbook");
        assert!(anchors.iter().any(|a| a == page), "{}: no heading for {page} among {anchors:?}", r["alert"]);
    }
}

#[test]
fn the_dashboard_asks_for_metrics_that_exist() {
    let board: Value = serde_json::from_str(&text("config/monitoring/dashboard.json")).expect("JSON");
    let (mut ids, mut conflicts) = (BTreeMap::new(), 0);
    for p in board["panels"].as_array().expect("panels") {
        assert!(ids.insert(p["id"].as_u64().expect("id"), ()).is_none(), "{}", p["title"]);
        for t in p["targets"].as_array().expect("targets") {
            let expr = t["expr"].as_str().expect("expr");
            assert!(unknown(expr).is_empty(), "{}: {:?}", p["title"], unknown(expr));
            conflicts += usize::from(expr.contains("tortie_conflicts"));
        }
    }
    assert!(ids.len() >= 10 && conflicts == 2, "{conflicts}");
}

/// What cargo deb puts together is of this version, and one name and licence stand everywhere.
#[test]
fn the_debian_package_says_what_cargo_says() {
    let (cargo, changelog, copyright) = (text("Cargo.toml"), text("config/debian/changelog"), text("config/debian/copyright"));
    let value = |key: &str| {
        let line = cargo.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(" = "));
        line.unwrap_or_else(|| panic!("no {key}")).trim_matches('"').to_owned()
    };
    assert!(changelog.starts_with(&format!("tortie ({}-1) ", value("version"))), "{changelog}");
    assert!(changelog.contains(&format!("\n -- {}  ", value("maintainer"))), "{changelog}");
    assert!(copyright.contains(&format!("\nCopyright: {}\n", value("copyright"))), "{copyright}");
    assert!(copyright.contains(&format!("\nLicense: {}\n", value("license"))), "{copyright}");
}

#[test]
fn wrong_expressions_are_found() {
    for (expr, want) in [
        ("rate(tortie_drop_total[5m])", "no metric tortie_drop_total"),
        ("tortie_drops_total{cause=\"x\"}", "no label cause"),
        ("tortie_drops_total{reason=~\"no-route|no-rout\"}", "no reason no-rout"),
        ("felix_ipsets_total > 0", "no metric felix_ipsets_total"),
        ("up == 0", "no metric of ours"),
    ] {
        assert!(unknown(expr).iter().any(|w| w.contains(want)), "{expr}: {:?}", unknown(expr));
    }
    assert!(unknown("rate(felix_int_dataplane_apply_time_seconds_sum{instance=~\"a\"}[5m]) > 1").is_empty());
}
