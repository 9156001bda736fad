//! Broken manifests by the dozen: nothing panics, everything is named, and the calculation copes with any
//! mixture of objects that validate.

use crate::support::*;
use proptest::prelude::*;
use tortie::control::{calc, cluster::Cluster, model};

/// A text with every kind in it.
fn everything() -> String {
    pool("p", "10.244.0.0/16", "vxlanMode: CrossSubnet, blockSize: 26, allowedUses: [Workload, Tunnel]")
        + &node("a", "10.0.0.1/24", Some("10.244.0.0"))
        + &node("b", "10.0.1.2/24", Some("10.244.1.0"))
        + &block("10.244.0.0/29", "host:a", &[("10.244.0.0", "a")])
        + &block("10.244.1.0/29", "host:b", &[("10.244.1.5", "a"), ("10.244.1.6", "")])
        + &endpoint("w", "a", "10.244.0.3")
        + "---\n{apiVersion: v1, kind: Node, metadata: {name: c, annotations: {projectcalico.org/IPv4Address: 10.0.0.3/24}}}\n\
           ---\n{apiVersion: v1, kind: Pod, metadata: {name: x, namespace: y, annotations: {cni.projectcalico.org/podIP: 10.244.0.4/32}}, spec: {nodeName: a}}\n\
           ---\n{apiVersion: projectcalico.org/v3, kind: FelixConfiguration, metadata: {name: default}, spec: {vxlanPort: 4789, externalNodesList: [1.2.3.4]}}\n\
           ---\n{apiVersion: projectcalico.org/v3, kind: BlockAffinity, metadata: {name: z}, spec: {node: a, cidr: 10.244.0.0/29, state: confirmed}}\n\
           ---\n{apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: Pod, metadata: {name: q}}]}\n"
}

/// Reads a text and calculates with whatever in it is good. Every fault must say something.
fn digest(text: &str) {
    let Ok(manifest) = model::parse(text).inspect_err(|e| assert!(!e.message.is_empty())) else { return };
    let mut state = Cluster::default();
    for entry in manifest.entries {
        match entry.object {
            Ok(object) => _ = state.insert(entry.key, object),
            Err(e) => assert!(e.line > 0 && !e.message.is_empty() && !e.to_string().contains('\n'), "{e:?}"),
        }
    }
    for e in manifest.nameless {
        assert!(e.line > 0 && !e.message.is_empty(), "{e:?}");
    }
    for node in ["a", "b", "nobody"] {
        calc::desired(&state, node);
    }
}

#[test]
fn the_text_itself_is_good() {
    let d = desired(&everything(), "a");
    assert_eq!((d.endpoints.len(), d.routes.len()), (2, 8), "{:#?}", table(&d));
}

#[test]
fn bad_texts_by_the_dozen() {
    for text in [
        "",
        "\0",
        "\u{feff}",
        "---",
        "---\n---\n",
        "...",
        "%YAML 9.9\n---\n",
        "[]",
        "[[[[",
        "{{{{",
        "}",
        "]",
        "a",
        "1",
        "~",
        "null",
        "- - - -",
        "? a",
        "? [a]: b",
        "!!binary x",
        "!x y",
        "&a *a",
        "*a",
        "<<: {a: 1}",
        "a: &a [*a]",
        "\t",
        "a:\n\t- b",
        "a: |\n x\n  y\n z",
        "a: >-",
        "'",
        "\"\\x\"",
        "\"\\ud800\"",
        "a: b: c",
        "- a\nb: c",
        "kind: List",
        "apiVersion: v1\nkind: List\nitems: {a: b}",
        "apiVersion: v1\nkind: ListList\nitems: [{kind: List}]",
        "apiVersion: v1\nkind: List\nitems: [null, 1, [], {}]",
        "apiVersion: [v1]\nkind: Pod",
        "apiVersion: v1\nkind: {}\n",
        "apiVersion: v1\nkind: Pod\nmetadata: []",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: {}}",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: ''}",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: \"a\\nb\"}",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a, annotations: []}",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: []",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nstatus: {podIPs: {}}",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nstatus: {podIPs: [1]}",
        "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: a}\nspec: null",
        "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: a}\nspec: {cidr: 0.0.0.0/0}",
        "apiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {name: a}\nspec: {bgp: {ipv4Address: 1e400}}",
        ".nan: .inf",
        "0x: 0o9",
        "a: 99999999999999999999999999999999999999999999",
    ] {
        digest(text);
        for cut in (0..text.len()).filter(|i| text.is_char_boundary(*i)) {
            digest(&text[..cut]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutated_bytes_never_panic(edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..4), 1..12)) {
        let mut bytes = everything().into_bytes();
        for (at, byte, what) in edits {
            if bytes.is_empty() {
                break;
            }
            let i = at.index(bytes.len());
            match what {
                0 => bytes[i] = byte,
                1 => bytes.insert(i, b"{}[]:,-#&*!|>'\"%@` \n0129a/."[usize::from(byte) % 27]),
                2 => drop(bytes.remove(i)),
                _ => bytes.truncate(i.max(1)),
            }
        }
        digest(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn mutated_values_never_panic(at in any::<prop::sample::Index>(), value in prop_oneof![
        Just("null"), Just("-1"), Just("''"), Just("[]"), Just("{}"), Just("0.0.0.0/0"), Just("255.255.255.255/32"), Just("10.244.0.0/16"), Just("::/0"), Just("true"), Just("4294967296"), Just("host:a"),
    ]) {
        // One value of the text is replaced: the objects stay recognisable, so validation and calculation are reached.
        let text = everything();
        let spots: Vec<_> = text.match_indices(": ").map(|(i, _)| i + 2).collect();
        let start = spots[at.index(spots.len())];
        let len = text[start..].find([',', '}', '\n']).unwrap_or(0);
        digest(&format!("{}{value}{}", &text[..start], &text[start + len..]));
    }
}
