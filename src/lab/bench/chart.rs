//! A report as a bar chart: SVG 1.1 with its own style, for light and dark surroundings.

use super::report::{Case, OTHERS_LIMIT, Report, figure};
use std::fmt::Write as _;

/// Pixels, as all lengths here.
const WIDTH: f64 = 960.0;
const MARGIN: f64 = 20.0;
/// Where bars begin; names of cases stand before.
const LEFT: f64 = 190.0;
/// Where bars end at the latest; absolute values stand behind.
const RIGHT: f64 = 620.0;
/// Above the first row: title and scale.
const TOP: f64 = 86.0;
/// One row: a bar and its distance from the next.
const ROW: f64 = 40.0;
const BAR: f64 = 18.0;
/// Below the last row: the legend.
const BOTTOM: f64 = 62.0;

/// Colours as custom properties, so that one rule turns all of them; the background is drawn, so that text stays
/// readable on a page of either kind and in viewers that know no media queries.
const STYLE: &str = "\
svg{--back:#ffffff;--text:#1f2328;--faint:#59636e;--grid:#d1d9e0;--ahead:#1a7f37;--behind:#bc4c00}\
@media (prefers-color-scheme:dark){svg{--back:#0d1117;--text:#e6edf3;--faint:#9198a1;--grid:#3d444d;--ahead:#3fb950;--behind:#f0883e}}\
text{font:13px system-ui,-apple-system,'Segoe UI',sans-serif;fill:#1f2328;fill:var(--text)}\
.title{font-size:17px;font-weight:600}.small{font-size:11px}.faint{fill:#59636e;fill:var(--faint)}\
.end{text-anchor:end}.middle{text-anchor:middle}\
.back{fill:#ffffff;fill:var(--back)}\
.grid{stroke:#d1d9e0;stroke:var(--grid);stroke-width:1}\
.one{stroke:#1f2328;stroke:var(--text);stroke-width:1.5;stroke-dasharray:5 3}\
.whisker{stroke:#1f2328;stroke:var(--text);stroke-width:1.5}\
.ahead{fill:#1a7f37;fill:var(--ahead)}.behind{fill:#bc4c00;fill:var(--behind)}";

/// The chart: per case the ratio of medians, tortie's by the kernel's, as a bar from 0, whiskers from the least to
/// the greatest ratio of a round, a line at 1, and the medians themselves as text. A case without a ratio has its
/// text only.
pub fn svg(report: &Report) -> String {
    let height = TOP + ROW * report.cases.len() as f64 + BOTTOM;
    let scale = Scale::of(&report.cases);
    let bottom = height - BOTTOM;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\n\
         <title>tortie beside the kernel's VXLAN device</title>\n<style>{STYLE}</style>\n\
         <rect class=\"back\" width=\"{WIDTH}\" height=\"{height}\"/>\n"
    );
    text(&mut out, "title", MARGIN, 30.0, "tortie beside the kernel's VXLAN device: ratio of medians");
    let under = format!("{}, commit {:.12}, {} x {} s", report.machine, report.commit, report.repetitions, report.seconds);
    text(&mut out, "small faint", MARGIN, 49.0, &under);
    for tick in scale.ticks() {
        let x = scale.x(tick);
        line(&mut out, "grid", [x, TOP - 6.0, x, bottom]);
        text(&mut out, "small faint middle", x, TOP - 12.0, &tick.to_string());
    }
    for (i, case) in report.cases.iter().enumerate() {
        bar(&mut out, &scale, TOP + ROW * i as f64, case);
    }
    line(&mut out, "one", [scale.x(1.0), TOP - 6.0, scale.x(1.0), bottom]);
    legend(&mut out, bottom + 28.0, report);
    out.push_str("</svg>\n");
    out
}

/// One case; `top` is its row's upper edge.
fn bar(out: &mut String, scale: &Scale, top: f64, c: &Case) {
    let middle = top + ROW / 2.0;
    text(out, "end", LEFT - 10.0, middle - 2.0, &c.case);
    text(out, "small faint end", LEFT - 10.0, middle + 12.0, &format!("{} is better", c.better));
    if let Some(ratio) = c.ratio {
        let ahead = if c.better == "higher" { ratio >= 1.0 } else { ratio <= 1.0 };
        let (y, width) = (middle - BAR / 2.0, scale.x(ratio) - LEFT);
        let class = if ahead { "ahead" } else { "behind" };
        let _ = writeln!(out, "<rect class=\"{class}\" x=\"{LEFT}\" y=\"{y}\" width=\"{width:.1}\" height=\"{BAR}\" rx=\"2\"/>");
    }
    if let (Some(min), Some(max)) = (c.ratio_min, c.ratio_max) {
        let (from, to) = (scale.x(min), scale.x(max));
        line(out, "whisker", [from, middle, to, middle]);
        for x in [from, to] {
            line(out, "whisker", [x, middle - 5.0, x, middle + 5.0]);
        }
    }
    let (tortie, kernel) = (figure(c.tortie.median), figure(c.kernel.median));
    let values = match c.ratio {
        Some(ratio) => format!("{ratio:.2}: {tortie} to {kernel}"),
        None => format!("{tortie} to {kernel}"),
    };
    text(out, "", RIGHT + 14.0, middle - 2.0, &values);
    text(out, "small faint", RIGHT + 14.0, middle + 12.0, c.unit);
}

fn legend(out: &mut String, y: f64, report: &Report) {
    for (class, x, what) in [("ahead", MARGIN, "tortie ahead"), ("behind", 140.0, "the kernel ahead")] {
        let _ = writeln!(out, "<rect class=\"{class}\" x=\"{x}\" y=\"{}\" width=\"12\" height=\"12\" rx=\"2\"/>", y - 10.0);
        text(out, "small", x + 18.0, y, what);
    }
    text(out, "small faint", 270.0, y, "whiskers: least and greatest ratio of one round; figures: medians, tortie to kernel");
    let doubtful: Vec<&str> =
        report.cases.iter().filter(|c| c.others_cpu.is_some_and(|o| o.max > OTHERS_LIMIT)).map(|c| c.case.as_str()).collect();
    if !doubtful.is_empty() {
        let what = format!("other processes used more than {OTHERS_LIMIT} of a core during {}", doubtful.join(", "));
        text(out, "small", MARGIN, y + 20.0, &what);
    }
}

/// From ratios to places.
struct Scale {
    greatest: f64,
    step: f64,
}

impl Scale {
    /// Wide enough for every bar, every whisker and the line at 1.
    fn of(cases: &[Case]) -> Scale {
        let all = cases.iter().flat_map(|c| [c.ratio, c.ratio_max]).flatten();
        let greatest = all.fold(1.0, f64::max) * 1.05;
        // Two to ten lines, at 1, 2 or 5 times a power of ten.
        let power = 10f64.powf((greatest / 5.0).log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|f| f * power).into_iter().find(|s| greatest / s <= 8.0).unwrap_or(power * 10.0);
        Scale { greatest, step }
    }

    fn x(&self, ratio: f64) -> f64 {
        LEFT + ratio.clamp(0.0, self.greatest) / self.greatest * (RIGHT - LEFT)
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        let n = (self.greatest / self.step).floor() as u32;
        // Rounded, so that three times 0.2 is shown as 0.6.
        (0..=n).map(|i| (f64::from(i) * self.step * 1e6).round() / 1e6)
    }
}

fn line(out: &mut String, class: &str, [x1, y1, x2, y2]: [f64; 4]) {
    let _ = writeln!(out, "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>");
}

fn text(out: &mut String, class: &str, x: f64, y: f64, content: &str) {
    let _ = writeln!(out, "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{}</text>", escape(content));
}

/// Character data of XML; control characters, which XML 1.0 does not have, become spaces.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::cases::RUNS;
    use super::super::report::Pair;
    use super::*;

    fn case(name: &str, pairs: &[[f64; 2]], others: f64) -> Case {
        let row = RUNS.iter().flat_map(|r| r.rows).find(|r| r.name == name).unwrap();
        Case::new(name, row, &pairs.iter().map(|value| Pair { value: *value, others: [Some(others); 2] }).collect::<Vec<_>>())
    }

    fn report(cases: Vec<Case>) -> Report {
        Report { machine: "2 x <CPU> & \"more\"".into(), commit: "0123456789abcdef".into(), seconds: 3.0, repetitions: 5, cases }
    }

    fn sample() -> Report {
        report(vec![
            case("tcp1", &[[4.0, 8.0], [6.0, 8.0]], 0.0),
            case("udp64", &[[160_000.0, 80_000.0]], 0.5),
            case("tcp-rr", &[[120.0, 80.0]], 0.0),
            case("idle-cpu", &[[0.2, 0.0]], 0.0),
        ])
    }

    /// Asserts that every element ends, in order, attributes are quoted, and no character stands unescaped.
    /// Returns the elements' names.
    fn elements(svg: &str) -> Vec<String> {
        let (mut open, mut all) = (Vec::new(), Vec::new());
        let mut rest = svg.trim_end();
        while let Some(start) = rest.find('<') {
            let data = &rest[..start];
            assert!(!data.contains('>'), "{data}");
            for (i, _) in data.match_indices('&') {
                assert!(["&amp;", "&lt;", "&gt;", "&quot;"].iter().any(|e| data[i..].starts_with(e)), "{data}");
            }
            let end = start + rest[start..].find('>').expect("an end of the tag");
            let tag = &rest[start + 1..end];
            rest = &rest[end + 1..];
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop().as_deref(), Some(name));
                assert!(!open.is_empty() || rest.is_empty(), "something after the root");
                continue;
            }
            assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
            assert_eq!(tag.matches("=\"").count() * 2, tag.matches('"').count(), "{tag}");
            let name = tag.split([' ', '/']).next().unwrap().to_owned();
            all.push(name.clone());
            if !tag.ends_with('/') {
                open.push(name);
            }
        }
        assert!(open.is_empty() && rest.is_empty(), "{open:?} {rest}");
        all
    }

    #[test]
    fn it_is_well_formed() {
        let svg = svg(&sample());
        let all = elements(&svg);
        let count = |name: &str| all.iter().filter(|e| *e == name).count();
        // The background, three bars, two squares of the legend.
        assert_eq!((all[0].as_str(), count("rect"), count("style")), ("svg", 6, 1));
        assert!(svg.contains("2 x &lt;CPU&gt; &amp; &quot;more&quot;, commit 0123456789ab, 5 x 3 s"), "{svg}");
        assert!(svg.contains("prefers-color-scheme:dark") && !svg.contains("NaN") && !svg.contains("inf"));
        elements(&super::svg(&report(vec![])));
    }

    #[test]
    fn every_case_shows_its_values() {
        let svg = svg(&sample());
        for want in
            [">0.62: 5.00 to 8.00<", ">2.00: 160000 to 80000<", ">1.50: 120 to 80.0<", ">0.20 to 0.00<", ">idle-cpu<", ">lower is better<"]
        {
            assert!(svg.contains(want), "{want} in {svg}");
        }
        assert!(svg.contains("more than 0.25 of a core during udp64<"));
        // udp64 is ahead; tcp1 and tcp-rr are not, each for its own direction.
        assert_eq!(svg.matches("<rect class=\"ahead\"").count(), 2);
        assert_eq!(svg.matches("<rect class=\"behind\"").count(), 3);
    }

    #[test]
    fn everything_fits_the_scale() {
        for greatest in [0.01, 0.5, 1.0, 1.9, 7.0, 42.0, 1e6] {
            let scale = Scale::of(&[case("udp64", &[[greatest, 1.0]], 0.0)]);
            let ticks: Vec<f64> = scale.ticks().collect();
            assert!((2..=10).contains(&ticks.len()) && ticks[0] == 0.0, "{greatest}: {ticks:?}");
            assert!(scale.x(greatest) <= RIGHT && scale.x(1.0) <= RIGHT && scale.x(0.0) == LEFT, "{greatest}");
        }
        assert_eq!(Scale::of(&[]).ticks().collect::<Vec<_>>(), [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]);
    }

    #[test]
    #[should_panic = "end of the tag"]
    fn ill_formed_text_is_found() {
        elements("<svg><text");
    }
}
