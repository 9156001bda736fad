//! Every refusal: which object, which field, which value, what is allowed; and that nothing was done.

use crate::golden::POOL;
use crate::support::Bench;

fn pool(name: &str, spec: &str) -> String {
    format!("---\napiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {{name: {name}}}\nspec: {spec}\n")
}

#[test]
fn nothing_is_sent_if_anything_is_wrong() {
    let b = Bench::new("");
    let text = pool("a", "{cidr: 10.1.0.0/16}") + &pool("b", "{cidr: 10.2.0.0/33}") + &pool("c", "{cidr: 10.3.0.0/16, natOutgoin: true}");
    b.write("in.yaml", &text);
    let e = b.err("apply -f {}/in.yaml");
    let file = b.path("in.yaml").display().to_string();
    assert_eq!(
        e,
        format!(
            "tortie: Failed to execute command: {file}:10: IPPool(b): error with field spec.cidr = '10.2.0.0/33' (a CIDR is required)\n\
             {file}:15: IPPool(c): error with field spec.natOutgoin = 'true' (unknown field; did you mean natOutgoing?)\n"
        )
    );
    assert_eq!(b.out("get ippool -o name"), "");
}

#[test]
fn input_that_cannot_be_used() {
    let b = Bench::new("");
    for (text, want) in [
        ("a: [\n", ":1: not YAML: "),
        (
            "apiVersion: crd.projectcalico.org/v1\nkind: IPPool\nmetadata: {name: a}\n",
            ":1: Unknown resource type (IPPool) and/or version (crd.projectcalico.org/v1); use apiVersion projectcalico.org/v3",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n",
            "Unknown resource type (Pod) and/or version (v1); known are BGPConfiguration, ",
        ),
        ("kind: IPPool\n", ":1: apiVersion: missing; text is required"),
        ("just text\n", ":1: a mapping is required, not the text \"just text\""),
        ("", "No resources specified in file standard input"),
        (
            "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: a, namespace: b}\nspec: {cidr: 10.0.0.0/8}\n",
            "IPPool(a): namespace should not be specified for a non-namespaced resource",
        ),
    ] {
        let ran = b.run_with("create -f -", text);
        assert!(ran.code == 1 && ran.err.contains(want), "{text:?}: {ran:?}");
    }
    let policy = "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: {name: a, namespace: b}\nspec: {}\n";
    let ran = b.run_with("create -n c -f -", policy);
    assert!(ran.err.contains("NetworkPolicy(b/a): resource namespace does not match client namespace. b != c"), "{ran:?}");
    assert!(b.err("apply -f /nonexistent.yaml").contains("open /nonexistent.yaml: No such file or directory"));
    std::fs::create_dir(b.path("empty")).unwrap();
    assert!(b.err("apply -f {}/empty").contains("No resources specified in directory "));
    assert!(b.err("apply").contains("-f FILE is required; - reads standard input"));
}

#[test]
fn what_the_datastore_refuses() {
    let b = Bench::new(POOL);
    for (line, stdin, want) in [
        (
            "create -f -",
            POOL.to_owned(),
            "Failed to create 'IPPool' resource: [standard input:1: resource already exists: IPPool(default-ipv4-ippool)]",
        ),
        (
            "replace -f -",
            pool("x", "{cidr: 10.1.0.0/16}"),
            "Failed to replace 'IPPool' resource: [standard input:2: resource does not exist: IPPool(x)]",
        ),
        (
            "create -f -",
            pool("x", "{cidr: 10.244.128.0/20}"),
            "IPPool(x): error with field spec.cidr = '10.244.128.0/20' (overlaps with IPPool(default-ipv4-ippool) CIDR 10.244.0.0/16)",
        ),
        ("apply -f -", POOL.replace("10.244", "10.245"), "spec.cidr = '10.245.0.0/16' (cannot be modified: it is 10.244.0.0/16"),
        ("apply -f -", POOL.replace("natOutgoing: true", "blockSize: 24"), "spec.blockSize = '24' (cannot be modified: it is 26"),
        (
            "apply -f -",
            "apiVersion: projectcalico.org/v3\nkind: Profile\nmetadata: {name: kns.x}\nspec: {}\n".into(),
            "operation Create is not supported on Profile(kns.x): Kubernetes manages it",
        ),
        (
            "apply -f -",
            "apiVersion: projectcalico.org/v3\nkind: ClusterInformation\nmetadata: {name: default}\nspec: {}\n".into(),
            "operation Create is not supported on ClusterInformation(default)",
        ),
    ] {
        let ran = b.run_with(line, &stdin);
        assert!(ran.code == 1 && ran.err.contains(want), "{line}\n got {ran:?}\nwant {want}");
    }
    let two = pool("n", "{cidr: 10.1.0.0/16}") + &pool("o", "{cidr: 10.1.0.0/24}");
    let ran = b.run_with("create -f -", &two);
    assert_eq!((ran.code, ran.out.as_str()), (1, "Partial success: created 1 out of 2 'IPPool' resources\n"));
    assert!(ran.err.starts_with("tortie: Hit error(s): [standard input:7: IPPool(o): error with field spec.cidr"), "{}", ran.err);
}

#[test]
fn names_and_forms() {
    let b = Bench::new(POOL);
    assert_eq!(b.err("get ippool nope"), "tortie: resource does not exist: IPPool(nope)\n");
    assert_eq!(b.err("delete ippool nope"), "tortie: Failed to delete 'IPPool' resource: resource does not exist: IPPool(nope)\n");
    let partly = b.run("get ippool default-ipv4-ippool nope -o name");
    assert_eq!((partly.code, partly.out.as_str()), (1, "ippool/default-ipv4-ippool\n"));
    assert!(b.err("get pod").starts_with("tortie: resource type 'pod' is not supported; known are bgpconfiguration, bgppeer, "));
    assert_eq!(b.err("get ippool -n x"), "tortie: IPPool is not namespaced\n");
    assert_eq!(b.err("get wep -n x -A"), "tortie: cannot use both --namespace and --all-namespaces flags at the same time\n");
    assert!(b.err("get wep x -A").contains("cannot use --all-namespaces flag for getting a single resource"));
    assert!(b.err("get ippool -o go-template={{.}}").contains("go-template is not supported: use -o json with jq"));
    assert!(b.err("get ippool -o xml").contains("unrecognized output format 'xml'; one of ps, wide, yaml, json, name, custom-columns="));
    assert!(b.err("get ippool -o custom-columns=FOO").contains("Unknown heading FOO, valid values are: NAME, CIDR, NAT"));
    assert_eq!(b.run("get").code, 2);
    assert_eq!(b.run("delete ippool").code, 2);
    for (patch, want) in [
        ("{", "the patch is not JSON: "),
        ("7", "the patch is not a JSON object but 7"),
        (
            r#"{"spec":{"ipipMode":"Sometimes"}}"#,
            "Hit error: IPPool(default-ipv4-ippool): error with field spec.ipipMode = 'Sometimes' (one of Never, Always, CrossSubnet is required",
        ),
        (r#"{"metadata":{"name":"b"}}"#, "error with field metadata.name (cannot be changed: it says which object this is)"),
        (r#"{"spec":{"cidr":"10.9.0.0/16"}}"#, "spec.cidr = '10.9.0.0/16' (cannot be modified"),
        (r#"{"spec":{"nodeselector":"all()"}}"#, "spec.nodeselector = 'all()' (unknown field; did you mean nodeSelector?)"),
    ] {
        let ran = b.run_words(&["patch", "ippool", "default-ipv4-ippool", "-p", patch], "");
        assert!(ran.code == 1 && ran.err.contains(want), "{patch}: {ran:?}");
    }
    assert!(b.run_words(&["patch", "ippool", "x", "-p", "{}"], "").err.contains("resource does not exist: IPPool(x)"));
}

#[test]
fn the_datastore_is_named() {
    let b = Bench::new("");
    b.write("datastore/bad.yaml", "a: 1\n  b: 2\n");
    let e = b.err("get ippool");
    assert!(e.contains("bad.yaml: refused: line 2: not YAML"), "{e}");
    let config = b.write("node.yaml", "node: n\ndatastore: {path: nowhere}\nuplink: {interface: eth0}\n");
    assert!(b.err(&format!("get ippool --config {config}")).contains("nowhere: no such folder"));
}
