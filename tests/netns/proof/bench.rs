//! `tortie lab bench` from its command line to its files: that it measures and what it writes, not how fast it is.

use super::lab::TORTIE;
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// Runs it for a fraction of a second per measurement; the report from its standard output.
fn bench(name: &str, dir: &Path, args: &[&str]) -> Value {
    let mut command = Command::new(TORTIE);
    command.args(["lab", "bench", "--seconds", "0.3", "--repetitions", "1", "-o", "json", "--name", name]);
    command.arg("--file").arg(dir.join("bench.json")).arg("--chart").arg(dir.join("bench.svg")).args(args);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("round 1 of 1: "), "{said}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let written: Value = serde_json::from_slice(&std::fs::read(dir.join("bench.json")).unwrap()).unwrap();
    assert_eq!(report, written);
    for lab in ["", "k", "p", "c"] {
        assert!(!Path::new(&format!("/run/tortie-{name}{lab}")).exists(), "lab {name}{lab} is still up");
    }
    report
}

/// The names of the cases, each of which has both sides' values and their ratio.
fn names(report: &Value) -> Vec<&str> {
    assert!(report["machine"].is_string() && report["commit"].is_string(), "{report}");
    let cases = report["cases"].as_array().unwrap();
    let check = |case: &Value| {
        assert!(case["unit"].is_string() && ["higher", "lower"].contains(&case["better"].as_str().unwrap()), "{case}");
        let side = |of: &str| {
            let value = |field: &str| case[of][field].as_f64().unwrap_or_else(|| panic!("{of}.{field} in {case}"));
            assert_eq!((value("median"), value("median"), value("n")), (value("min"), value("max"), 1.0), "{case}");
            value("median")
        };
        let (tortie, kernel) = (side("tortie"), side("kernel"));
        assert!(tortie >= 0.0 && kernel >= 0.0, "{case}");
        match case["ratio"].as_f64() {
            // Reading numbers back may round them.
            Some(ratio) => assert!((ratio * kernel - tortie).abs() <= tortie * 1e-9, "{case}"),
            None => assert!(case["ratio"].is_null() && kernel == 0.0, "{case}"),
        }
        let others = &case["others_cpu"];
        let watched = !case["case"].as_str().unwrap().ends_with("rss");
        assert!(if watched { others["median"].is_f64() && others["max"].is_f64() } else { others.is_null() }, "{case}");
    };
    cases.iter().for_each(check);
    cases.iter().map(|c| c["case"].as_str().unwrap()).collect()
}

/// A name that is swept like every test's lab.
fn name(letter: char) -> String {
    format!("t{}x{letter}", std::process::id())
}

#[test]
fn the_report_has_its_shape() {
    let dir = tempfile::tempdir().unwrap();
    let report = bench(&name('a'), dir.path(), &["--cases", "udp64,tcp1"]);
    assert_eq!(names(&report), ["tcp1", "udp64"]);
    assert!(report["cases"].as_array().unwrap().iter().all(|c| c["ratio"].as_f64().unwrap() > 0.0), "{report}");
    let chart = std::fs::read_to_string(dir.path().join("bench.svg")).unwrap();
    assert!(chart.starts_with("<svg ") && chart.trim_end().ends_with("</svg>") && chart.contains(">udp64<"), "{chart}");
}

#[test]
fn every_case_can_be_measured() {
    let dir = tempfile::tempdir().unwrap();
    let report = bench(&name('b'), dir.path(), &["--kernel-peer", "--idle-pods", "3"]);
    assert_eq!(
        names(&report),
        [
            "tcp1",
            "tcp4",
            "tcp1-plain-nic",
            "udp64",
            "udp64-1000flows",
            "tcp-rr",
            "tcp-rr-p99",
            "udp-rr",
            "udp-rr-p99",
            "tcp-rr-busy",
            "tcp-rr-busy-mean",
            "cpu-per-gb",
            "cpu-per-gb-processes",
            "idle-cpu",
            "rss",
            "tcp1-out",
            "tcp1-in",
            "udp64-out",
            "udp64-in",
            "idle-3-pods-cpu",
            "idle-3-pods-rss"
        ]
    );
    let case = |name: &str| report["cases"].as_array().unwrap().iter().find(|c| c["case"] == name).unwrap();
    for name in ["rss", "idle-3-pods-rss"] {
        assert!(case(name)["tortie"]["median"].as_f64().unwrap() > 1.0, "{}", case(name));
        assert!(case(name)["ratio"].is_null() && case(name)["kernel"]["median"] == 0.0, "{}", case(name));
    }
}

#[test]
fn wrong_cases_are_wrong_usage() {
    for (args, says) in
        [(["--cases", "tcp2"], "tcp1-plain-nic"), (["--cases", "tcp1-in"], "--kernel-peer"), (["--seconds", "0"], "above 0")]
    {
        let output = Command::new(TORTIE).args(["lab", "bench", "--name", &name('c')]).args(args).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(says), "{said}");
    }
}
