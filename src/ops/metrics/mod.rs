//! Metrics for Prometheus. Nothing is copied or kept per packet: a scrape reads the workers' counters as they are.
//!
//! Names of Felix's are kept where they mean the same here; everything of the data path is `tortie_*`.

pub mod family;
mod read;

use super::server::{self, Answer, Handler};
use crate::control::facts::Shared;
use family::{Family, Type};
use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType, Summary};
use prometheus::{TEXT_FORMAT, TextEncoder};
use std::sync::Arc;

/// Answers `/metrics`.
pub struct Metrics {
    shared: Arc<Shared>,
    process: ProcessCollector,
}

impl Metrics {
    pub fn new(shared: Arc<Shared>) -> Metrics {
        Metrics { shared, process: ProcessCollector::for_self() }
    }

    /// The text exposition format, version 0.0.4.
    pub fn text(&self) -> prometheus::Result<String> {
        let mut set = Set::default();
        read::all(&self.shared, &mut set);
        set.0.extend(self.process.collect().into_iter().filter(|f| !f.get_metric().is_empty()));
        TextEncoder::new().encode_to_string(&set.0)
    }
}

impl Handler for Metrics {
    fn get(&self, path: &str, _query: Option<&str>) -> Answer {
        if path != "/metrics" {
            return Answer::error(server::NOT_FOUND, "no such resource; there is /metrics");
        }
        match self.text() {
            Ok(text) => Answer { status: server::OK, kind: TEXT_FORMAT, body: text.into_bytes() },
            Err(e) => Answer::error(server::INTERNAL_ERROR, &e.to_string()),
        }
    }
}

/// Metrics being collected for one scrape.
#[derive(Default)]
struct Set(Vec<MetricFamily>);

impl Set {
    /// A metric without labels.
    fn one(&mut self, family: &Family, value: impl Into<Value>) {
        self.add(family, [([], value.into())]);
    }

    /// A metric with one sample per combination of labels; none at all leaves the metric out.
    fn add<const N: usize>(&mut self, family: &Family, samples: impl IntoIterator<Item = ([String; N], Value)>) {
        debug_assert_eq!(N, family.labels.len(), "{}", family.name);
        let metrics: Vec<Metric> = samples.into_iter().map(|(labels, value)| metric(family, labels, value)).collect();
        if metrics.is_empty() {
            return;
        }
        let mut out = MetricFamily::default();
        out.set_name(family.name.to_owned());
        out.set_help(family.help.to_owned());
        out.set_field_type(match family.kind {
            Type::Counter => MetricType::COUNTER,
            Type::Gauge => MetricType::GAUGE,
            Type::Summary => MetricType::SUMMARY,
        });
        out.set_metric(metrics);
        self.0.push(out);
    }
}

/// A sample's value.
#[derive(Clone, Copy)]
enum Value {
    Number(f64),
    /// Count and sum.
    Sum(u64, f64),
}

impl From<u64> for Value {
    fn from(n: u64) -> Value {
        Value::Number(n as f64)
    }
}

impl From<usize> for Value {
    fn from(n: usize) -> Value {
        Value::Number(n as f64)
    }
}

impl From<bool> for Value {
    fn from(b: bool) -> Value {
        Value::Number(f64::from(u8::from(b)))
    }
}

fn metric<const N: usize>(family: &Family, labels: [String; N], value: Value) -> Metric {
    let mut m = Metric::default();
    let pair = |(name, value): (&&str, String)| {
        let mut p = LabelPair::default();
        p.set_name((*name).to_owned());
        p.set_value(value);
        p
    };
    m.set_label(family.labels.iter().zip(labels).map(pair).collect());
    match (family.kind, value) {
        (Type::Counter, Value::Number(n)) => {
            let mut c = Counter::default();
            c.set_value(n);
            m.set_counter(c);
        }
        (_, Value::Sum(count, sum)) => {
            let mut s = Summary::default();
            s.set_sample_count(count);
            s.set_sample_sum(sum);
            m.set_summary(s);
        }
        (_, Value::Number(n)) => {
            let mut g = Gauge::default();
            g.set_value(n);
            m.set_gauge(g);
        }
    }
    m
}

#[cfg(test)]
mod tests;
