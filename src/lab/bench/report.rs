//! What `lab bench` found, in the form that is printed, written and drawn.

use super::cases::Row;
use serde::Serialize;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// Others' CPU from which a measurement is doubtful, fraction of one core.
pub const OTHERS_LIMIT: f64 = 0.25;

/// The result: what is printed and written.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub machine: String,
    pub commit: String,
    /// Length of one measurement.
    pub seconds: f64,
    pub repetitions: u16,
    pub cases: Vec<Case>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Case {
    pub case: String,
    pub unit: &'static str,
    /// `higher` or `lower`.
    pub better: &'static str,
    pub tortie: Summary,
    pub kernel: Summary,
    /// Median of tortie by median of the kernel, whichever direction is better; `null` where the kernel's is 0,
    /// because it has no process that could use anything.
    pub ratio: Option<f64>,
    /// Least and greatest ratio of two measurements of the same round.
    pub ratio_min: Option<f64>,
    pub ratio_max: Option<f64>,
    /// `null` where no time passes: memory is only read.
    pub others_cpu: Option<Others>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    pub median: f64,
    pub min: f64,
    pub max: f64,
    pub n: usize,
}

/// CPU time of processes that had nothing to do with it, fraction of one core, over a case's measurements of both
/// labs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Others {
    pub median: f64,
    pub max: f64,
}

/// One round of a row: tortie's and the kernel's value, and others' share of a core during each; `None` where
/// nothing was watched.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    pub value: [f64; 2],
    pub others: [Option<f64>; 2],
}

impl Case {
    /// `pairs` is not empty.
    pub fn new(name: &str, row: &Row, pairs: &[Pair]) -> Case {
        let of = |lab: usize| summary(pairs.iter().map(|p| p.value[lab]).collect());
        let (tortie, kernel) = (of(0), of(1));
        let ratios: Option<Vec<f64>> = pairs.iter().map(|p| ratio(p.value[0], p.value[1])).collect();
        let ratios = ratios.map(summary);
        let others: Vec<f64> = pairs.iter().flat_map(|p| p.others).flatten().collect();
        let others = (!others.is_empty()).then(|| summary(others));
        Case {
            case: name.to_owned(),
            unit: row.unit,
            better: row.better.word(),
            tortie,
            kernel,
            ratio: ratio(tortie.median, kernel.median),
            ratio_min: ratios.map(|r| r.min),
            ratio_max: ratios.map(|r| r.max),
            others_cpu: others.map(|o| Others { median: o.median, max: o.max }),
        }
    }

    /// What to say if others took part.
    pub fn warning(&self) -> Option<String> {
        let o = self.others_cpu.filter(|o| o.max > OTHERS_LIMIT)?;
        Some(format!("{}: other processes used up to {:.2} of a core (median {:.2}): not its figures alone", self.case, o.max, o.median))
    }
}

fn ratio(tortie: f64, kernel: f64) -> Option<f64> {
    (kernel > 0.0).then(|| tortie / kernel)
}

/// `values` is not empty; for an even number the median is the mean of the middle two.
fn summary(mut values: Vec<f64>) -> Summary {
    values.sort_by(f64::total_cmp);
    let n = values.len();
    let median = (values[(n - 1) / 2] + values[n / 2]) / 2.0;
    Summary { median, min: values[0], max: values[n - 1], n }
}

/// A value for people: three significant digits or so.
pub fn figure(v: f64) -> String {
    match v.abs() {
        a if a >= 100.0 => format!("{v:.0}"),
        a if a >= 10.0 => format!("{v:.1}"),
        _ => format!("{v:.2}"),
    }
}

/// Processor, cores and kernel.
pub fn machine() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|l| l.strip_prefix("model name")).and_then(|l| l.split(": ").nth(1)).unwrap_or("unknown processor");
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{cores} x {model}, Linux {}", kernel.trim())
}

/// The commit that was built: from the build's environment, else from the source tree if it is still there.
pub fn commit() -> String {
    if let Some(commit) = option_env!("TORTIE_COMMIT") {
        return commit.to_owned();
    }
    let tree = Path::new(env!("CARGO_MANIFEST_DIR"));
    let git = Command::new("git").arg("-C").arg(tree).args(["rev-parse", "HEAD"]).stderr(Stdio::null()).output();
    let id = git.ok().filter(|o| o.status.success()).map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned());
    id.filter(|i| !i.is_empty()).unwrap_or_else(|| "unknown".to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::cases::RUNS;
    use super::*;
    use serde_json::{Value, json};

    fn row(name: &str) -> &'static Row {
        RUNS.iter().flat_map(|r| r.rows).find(|r| r.name == name).unwrap()
    }

    fn pair(tortie: f64, kernel: f64, others: f64) -> Pair {
        Pair { value: [tortie, kernel], others: [Some(others), (kernel > 0.0).then_some(0.0)] }
    }

    #[test]
    fn medians() {
        assert_eq!(summary(vec![3.0, 1.0, 2.0]), Summary { median: 2.0, min: 1.0, max: 3.0, n: 3 });
        assert_eq!(summary(vec![4.0, 1.0]).median, 2.5);
    }

    #[test]
    fn a_case_compares_rounds_and_medians() {
        let c = Case::new("tcp1", row("tcp1"), &[pair(4.0, 8.0, 0.1), pair(6.0, 8.0, 0.3), pair(10.0, 8.0, 0.0)]);
        assert_eq!((c.ratio, c.ratio_min, c.ratio_max), (Some(0.75), Some(0.5), Some(1.25)));
        assert_eq!(c.others_cpu, Some(Others { median: 0.0, max: 0.3 }));
        assert!(c.warning().unwrap().contains("tcp1: other processes used up to 0.30 of a core"));
        assert_eq!(Case::new("tcp1", row("tcp1"), &[pair(4.0, 8.0, 0.25)]).warning(), None);
    }

    #[test]
    fn what_was_not_watched_has_no_others() {
        let c = Case::new("rss", row("rss"), &[Pair { value: [9.0, 0.0], others: [None, None] }]);
        assert_eq!((c.others_cpu, c.warning(), c.ratio), (None, None, None));
        let c = Case::new("idle-cpu", row("idle-cpu"), &[pair(0.1, 0.0, 0.4)]);
        assert_eq!(c.others_cpu, Some(Others { median: 0.4, max: 0.4 }));
    }

    #[test]
    fn json_has_its_fixed_shape() {
        let cases =
            vec![Case::new("tcp1", row("tcp1"), &[pair(4.0, 8.0, 0.0)]), Case::new("idle-cpu", row("idle-cpu"), &[pair(0.2, 0.0, 0.0)])];
        let report = Report { machine: "m".into(), commit: "c".into(), seconds: 3.0, repetitions: 1, cases };
        let summary = |v: f64| json!({"median": v, "min": v, "max": v, "n": 1});
        let others = json!({"median": 0.0, "max": 0.0});
        let want: Value = json!({
            "machine": "m", "commit": "c", "seconds": 3.0, "repetitions": 1,
            "cases": [
                {"case": "tcp1", "unit": "Gbit/s", "better": "higher", "tortie": summary(4.0), "kernel": summary(8.0),
                 "ratio": 0.5, "ratio_min": 0.5, "ratio_max": 0.5, "others_cpu": others},
                {"case": "idle-cpu", "unit": "% of a core, engines, no traffic", "better": "lower", "tortie": summary(0.2),
                 "kernel": summary(0.0), "ratio": null, "ratio_min": null, "ratio_max": null, "others_cpu": others},
            ],
        });
        assert_eq!(serde_json::to_value(&report).unwrap(), want);
    }
}
