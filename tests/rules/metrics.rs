//! docs/metrics.md, written from the declarations in src/ops/metrics/family.rs.

use std::fmt::Write;
use tortie::ops::metrics::family::ALL;

const HEAD: &str = "\
# Metrics

<!-- Generated from src/ops/metrics/family.rs by tests/rules; do not edit. `TORTIE_BLESS=1 cargo test --test rules` rewrites it. -->

Served at `http://NODE:9091/metrics` when FelixConfiguration `prometheusMetricsEnabled` or `metrics: {enabled: true}` in
the node's configuration says so; both can change while the daemon runs. The format is Prometheus's text exposition format
0.0.4. A scrape reads the workers' counters as they are; packets pay nothing for it.

Names that begin with `felix_` are Felix's, kept where they mean the same here, so that dashboards for Calico find them.
Felix's summaries have quantiles, these have count and sum only. Of policy, BPF, ipsets and iptables there is nothing to
count, so those names are absent. `process_*` (CPU seconds, memory, descriptors, start time, threads) are the daemon's own.

Labels are bounded: at most 512 pods and 256 peers per node have samples of their own, and `tortie_pods_omitted` and
`tortie_peers_omitted` say how many do not; their packets are in the sums by role. `role` is `uplink`, `workload` or
`host`; sums by role include ports that are gone, so they never go down.

| Metric | Type | Labels | Meaning |
| --- | --- | --- | --- |
";

/// The whole file.
pub fn document() -> String {
    let mut out = String::from(HEAD);
    for f in ALL {
        let labels: Vec<String> = f.labels.iter().map(|l| format!("`{l}`")).collect();
        writeln!(out, "| `{}` | {} | {} | {} |", f.name, f.kind.name(), labels.join(", "), f.help).expect("writing to a string");
    }
    out
}
