//! Tables in a frame, as calicoctl prints them for `ipam show` and `node status`.

/// Rows under a heading; a cell that is a number stands at the right, everything else at the left.
pub struct Boxed {
    heading: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Boxed {
    pub fn new(heading: &[&str]) -> Boxed {
        Boxed { heading: heading.iter().map(|h| (*h).to_owned()).collect(), rows: Vec::new() }
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    pub fn render(&self) -> String {
        let length = |row: &Vec<String>, c: usize| row.get(c).map_or(0, |t| t.chars().count());
        let widest = |c: usize| self.rows.iter().chain([&self.heading]).map(|r| length(r, c)).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.heading.len()).map(widest).collect();
        let rule = format!("+{}+\n", widths.iter().map(|w| "-".repeat(w + 2)).collect::<Vec<_>>().join("+"));
        let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
        let mut out = rule.clone();
        out.push_str(&line(self.heading.iter().zip(&widths).map(|(t, w)| format!("{t:^w$}")).collect()));
        out.push_str(&rule);
        for row in &self.rows {
            let cell = |(t, w): (&String, &usize)| if is_number(t) { format!("{t:>w$}") } else { format!("{t:<w$}") };
            out.push_str(&line(row.iter().zip(&widths).map(cell).collect()));
        }
        if !self.rows.is_empty() {
            out.push_str(&rule);
        }
        out
    }
}

fn is_number(text: &str) -> bool {
    text.parse::<f64>().is_ok_and(f64::is_finite)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headings_are_centred_and_numbers_at_the_right() {
        let mut t = Boxed::new(&["PEER ADDRESS", "PEER TYPE", "STATE", "SINCE", "INFO"]);
        t.row(["192.168.3.144", "node-to-node mesh", "up", "04:01:17", "Established"].map(str::to_owned));
        t.row(["7", "", "1e+05", "4 (6%)", "-"].map(str::to_owned));
        assert_eq!(
            t.render(),
            "+---------------+-------------------+-------+----------+-------------+\n\
             | PEER ADDRESS  |     PEER TYPE     | STATE |  SINCE   |    INFO     |\n\
             +---------------+-------------------+-------+----------+-------------+\n\
             | 192.168.3.144 | node-to-node mesh | up    | 04:01:17 | Established |\n\
             |             7 |                   | 1e+05 | 4 (6%)   | -           |\n\
             +---------------+-------------------+-------+----------+-------------+\n"
        );
    }
}
