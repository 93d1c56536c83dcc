//! Horizontal bars as SVG, on a logarithmic scale: what is compared lies orders of magnitude apart.

use std::fmt::Write as _;

pub(crate) struct Bar {
    pub(crate) name: &'static str,
    pub(crate) milliseconds: f64,
}

pub(crate) struct Group {
    pub(crate) name: &'static str,
    pub(crate) bars: Vec<Bar>,
}

const WIDTH: f64 = 760.0;
const LEFT: f64 = 120.0;
const RIGHT: f64 = 80.0;
const ROW: f64 = 18.0;
const TITLE: f64 = 26.0;

/// The groups below each other, with a line for each power of ten.
pub(crate) fn svg(groups: &[Group], caption: &str) -> String {
    let all = || groups.iter().flat_map(|group| &group.bars).map(|bar| bar.milliseconds);
    let least = all().fold(f64::INFINITY, f64::min).max(0.1).log10().floor();
    let most = all().fold(1.0, f64::max).log10().ceil().max(least + 1.0);
    let x = |milliseconds: f64| {
        let share = (milliseconds.max(0.1).log10() - least) / (most - least);
        LEFT + share * (WIDTH - LEFT - RIGHT)
    };
    let mut body = String::new();
    let mut y = 10.0;
    // Writing to a String cannot fail.
    for group in groups {
        let _never = writeln!(
            body,
            "<text x=\"4\" y=\"{:.0}\" font-weight=\"bold\">{}</text>",
            y + 14.0,
            group.name
        );
        y += TITLE;
        for bar in &group.bars {
            let colour = if bar.name.starts_with("assemble") { "#c8552b" } else { "#8a94a3" };
            let (from, to, text) = (LEFT, x(bar.milliseconds), y + 12.0);
            let _never = writeln!(
                body,
                "<text x=\"{:.0}\" y=\"{text:.0}\" text-anchor=\"end\">{}</text>\
                 <rect x=\"{from:.1}\" y=\"{y:.0}\" width=\"{:.1}\" height=\"14\" fill=\"{colour}\"/>\
                 <text x=\"{:.1}\" y=\"{text:.0}\">{:.1} ms</text>",
                LEFT - 6.0,
                bar.name,
                (to - from).max(1.0),
                to + 5.0,
                bar.milliseconds,
            );
            y += ROW;
        }
        y += 8.0;
    }
    let mut lines = String::new();
    let mut power = least;
    while power <= most {
        let at = x(10_f64.powf(power));
        let _never = writeln!(
            lines,
            "<line x1=\"{at:.1}\" y1=\"8\" x2=\"{at:.1}\" y2=\"{y:.0}\" stroke=\"#ddd\"/>"
        );
        power += 1.0;
    }
    let height = y + 24.0;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH:.0} {height:.0}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{lines}{body}\
         <text x=\"4\" y=\"{:.0}\" font-size=\"10\" fill=\"#555\">{caption}</text>\n</svg>\n",
        y + 14.0,
    )
}
