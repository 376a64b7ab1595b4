//! Charts as SVG: the geometry in an image that stretches, the words in HTML beside it, the numbers in a table under it.
//! Pure. Colours are classes, because the policy of the pages forbids styles.

use std::fmt::Write as _;

use maud::{Markup, html};

use super::components::visible;

const WIDTH: f64 = 600.0;
const HEIGHT: f64 = 100.0;

/// One quantity over all places, from the axis upwards.
pub struct Series<'a> {
    /// Its name in the legend.
    pub name: &'a str,
    /// Its colour: `ok`, `warn`, `bad`, `mute` or `accent`.
    pub color: &'static str,
    /// A value for each place.
    pub values: &'a [f64],
}

/// What a chart is about.
pub struct Axis<'a> {
    /// Unique in the page.
    pub id: &'a str,
    /// The heading.
    pub title: &'a str,
    /// What it shows, in a sentence, for people who do not see it.
    pub text: &'a str,
    /// The name of each place.
    pub labels: &'a [String],
    /// A label under every so many places.
    pub every: usize,
    /// Written behind each number, like ` %`.
    pub unit: &'a str,
    /// A line at this value.
    pub limit: Option<f64>,
}

/// Stacked bars of whole numbers.
pub fn bars(axis: &Axis<'_>, series: &[Series<'_>]) -> Markup {
    let sum = |place: usize| series.iter().map(|one| at(one, place)).sum::<f64>();
    let top = ceiling((0..axis.labels.len()).map(sum).fold(1.0, f64::max));
    let step = WIDTH / axis.labels.len().max(1) as f64;
    let mut base = vec![0.0; axis.labels.len()];
    let paths: Vec<(&str, String)> = series
        .iter()
        .map(|one| {
            let mut path = String::new();
            for (place, base) in base.iter_mut().enumerate() {
                let value = at(one, place);
                if value > 0.0 {
                    let (x, y) = (place as f64 * step + step * 0.1, HEIGHT - (*base + value) * HEIGHT / top);
                    let (w, h) = (step * 0.8, value * HEIGHT / top);
                    // Writing to a String cannot fail.
                    let _ =
                        write!(path, "M{} {}h{}v{}h-{}z", short(x), short(y), short(w), short(h), short(w));
                }
                *base += value;
            }
            (one.color, path)
        })
        .collect();
    let shapes = html! { @for (color, path) in paths.iter().filter(|(_, path)| !path.is_empty()) { path class={ "f-" (color) } d=(path) {} } };
    figure(axis, series, top, &shapes, false)
}

/// Lines, for shares.
pub fn lines(axis: &Axis<'_>, series: &[Series<'_>]) -> Markup {
    let values = series.iter().flat_map(|one| one.values.iter().copied());
    let highest = values.chain(axis.limit.map(|limit| limit * 1.15)).fold(0.01, f64::max);
    let top = ceiling(highest);
    let step = WIDTH / axis.labels.len().max(1) as f64;
    let path = |one: &Series<'_>| {
        let point = |place: usize| {
            let (x, y) = (place as f64 * step + step / 2.0, HEIGHT - at(one, place) * HEIGHT / top);
            format!("{} {}", short(x), short(y))
        };
        format!("M{}", (0..axis.labels.len()).map(point).collect::<Vec<_>>().join("L"))
    };
    let shapes = html! {
        @for one in series.iter().filter(|_| !axis.labels.is_empty()) { path class={ "l k-" (one.color) } d=(path(one)) {} }
    };
    figure(axis, series, top, &shapes, true)
}

/// A line without an axis, beside a number that says the same.
pub fn spark(values: &[f64]) -> Markup {
    let top = values.iter().copied().fold(1.0, f64::max);
    let step = 100.0 / values.len().saturating_sub(1).max(1) as f64;
    let points = values.iter().map(|value| if value.is_finite() { value.max(0.0) } else { 0.0 }).enumerate();
    let points: Vec<String> = points
        .map(|(place, value)| format!("{:.0} {:.1}", place as f64 * step, 22.0 - value * 20.0 / top))
        .collect();
    let line = points.join("L");
    html! {
        @if !values.is_empty() {
            svg class="spark k-accent" viewBox="0 0 100 24" preserveAspectRatio="none" aria-hidden="true" {
                path.area d={ "M0 24L" (line) "L100 24z" } {}
                path.l d={ "M" (line) } {}
            }
        }
    }
}

/// A part of a whole as a bar.
pub fn meter(part: u64, whole: u64, color: &str, text: &str) -> Markup {
    bar("meter", part, whole, color, text)
}

/// The same behind a number in a line.
pub fn short_meter(part: u64, whole: u64, color: &str, text: &str) -> Markup {
    bar("meter short", part, whole, color, text)
}

fn bar(class: &str, part: u64, whole: u64, color: &str, text: &str) -> Markup {
    let share = if whole == 0 { 0.0 } else { (100.0 * part as f64 / whole as f64).min(100.0) };
    html! {
        svg class=(class) viewBox="0 0 100 6" preserveAspectRatio="none" role="img" aria-label=(text) {
            rect class={ "f-" (color) } width=(short(share)) height="6" {}
        }
    }
}

fn figure(axis: &Axis<'_>, series: &[Series<'_>], top: f64, shapes: &Markup, is_fine: bool) -> Markup {
    let Axis { id, title, text, labels, every, unit, limit } = axis;
    let step = WIDTH / labels.len().max(1) as f64;
    let half = if is_fine || (top / 2.0).fract() == 0.0 {
        format!("{}{unit}", number(top / 2.0))
    } else {
        String::new()
    };
    let (title_id, text_id) = (format!("{id}-t"), format!("{id}-d"));
    html! {
        figure.chart {
            figcaption {
                h2 { (title) }
                ul.legend {
                    @for one in series { li class={ "k-" (one.color) } { span { (visible(one.name)) } } }
                    @if let Some(limit) = limit { li.k-bad { span { "limit " (number(*limit)) (unit) } } }
                }
            }
            div class={ "plot" @if is_fine { " low" } } {
                div.y aria-hidden="true" { span { (number(top)) (unit) } span { (half) } span { "0" } }
                svg viewBox="0 0 600 100" preserveAspectRatio="none" role="img" aria-labelledby={ (title_id) " " (text_id) } {
                    title id=(title_id) { (title) }
                    desc id=(text_id) { (visible(text)) }
                    @for y in [0, 50] { line.grid x1="0" x2="600" y1=(y) y2=(y) {} }
                    line.base x1="0" x2="600" y1="100" y2="100" {}
                    (shapes)
                    @if let Some(limit) = limit {
                        @let y = short(HEIGHT - limit * HEIGHT / top);
                        line class="l limit k-bad" x1="0" x2="600" y1=(y) y2=(y) {}
                    }
                    @for (place, label) in labels.iter().enumerate() {
                        rect.hit x=(short(place as f64 * step)) y="0" width=(short(step)) height="100" {
                            title { (label) ": " (values_at(series, place, unit, is_fine)) }
                        }
                    }
                }
                div.x aria-hidden="true" { @for label in labels.iter().step_by((*every).max(1)) { span { (label) } } }
            }
            details.numbers {
                summary { "Numbers" }
                div.scroll tabindex="0" role="region" aria-label={ (title) ", numbers" } {
                    table {
                        thead { tr { th scope="col" { "Time" } @for one in series { th.num scope="col" { (visible(one.name)) } } } }
                        tbody {
                            @for (place, label) in labels.iter().enumerate() {
                                tr { th scope="row" { (label) } @for one in series { td.num { (number(at(one, place))) (unit) } } }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn values_at(series: &[Series<'_>], place: usize, unit: &str, also_zero: bool) -> String {
    let shown = series.iter().filter(|one| also_zero || at(one, place) > 0.0);
    shown.map(|one| format!("{}{unit} {}", number(at(one, place)), one.name)).collect::<Vec<_>>().join(", ")
}

fn at(series: &Series<'_>, place: usize) -> f64 {
    series.values.get(place).copied().filter(|value| value.is_finite() && *value > 0.0).unwrap_or(0.0)
}

/// The next of 1, 2, 4, 6, 8, 10 times a power of ten that is not below; half of it is a whole number above 1.
fn ceiling(most: f64) -> f64 {
    let most = if most.is_finite() { most.max(0.01) } else { 1.0 };
    let power = 10_f64.powf(most.log10().floor());
    let steps = [1.0, 2.0, 4.0, 6.0, 8.0, 10.0].map(|step| step * power);
    steps.into_iter().find(|step| *step >= most * 0.9999).unwrap_or(10.0 * power)
}

/// A coordinate with one decimal at most.
fn short(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

/// A number as people read it: whole ones in groups, others with two decimals at most.
fn number(value: f64) -> String {
    if value.fract() == 0.0 && value.abs() < 1e15 {
        return super::format::count(value as u64);
    }
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_axis_ends_at_a_round_number_above_all_values() {
        for (most, expected) in
            [(0.0, 0.01), (0.3, 0.4), (1.0, 1.0), (1.1, 2.0), (5.0, 6.0), (99.0, 100.0), (1446.0, 2000.0)]
        {
            assert!((ceiling(most) - expected).abs() < 1e-9, "{most}: {}", ceiling(most));
        }
        assert!(ceiling(u64::MAX as f64) >= u64::MAX as f64);
        assert_eq!(ceiling(f64::NAN), 1.0);
    }

    #[test]
    fn a_chart_is_the_same_each_time_and_has_its_numbers_as_a_table() {
        let labels: Vec<String> = ["10:00", "11:00"].map(str::to_owned).to_vec();
        let axis = Axis {
            id: "c",
            title: "Mail",
            text: "Two hours.",
            labels: &labels,
            every: 1,
            unit: "",
            limit: None,
        };
        let series = [
            Series { name: "delivered", color: "ok", values: &[3.0, 0.0] },
            Series { name: "deferred", color: "warn", values: &[1.0, 2.0] },
        ];
        let chart = bars(&axis, &series).into_string();
        assert!(chart.contains("<path class=\"f-ok\" d=\"M30 25h240v75h-240z\"></path>"), "{chart}");
        assert!(
            chart.contains("<path class=\"f-warn\" d=\"M30 0h240v25h-240zM330 50h240v50h-240z\"></path>"),
            "{chart}"
        );
        assert!(chart.contains("<td class=\"num\">3</td>") && !chart.contains("style="), "{chart}");
    }

    /// The charts of the golden files: name, values.
    fn examples() -> Vec<(&'static str, Vec<f64>)> {
        let mut spike = vec![0.0; 24];
        spike[20] = 1446.0;
        vec![
            ("none", Vec::new()),
            ("one", vec![3.0]),
            ("sixty_equal", vec![5.0; 60]),
            ("spike", spike),
            ("all_zero", vec![0.0; 24]),
            ("largest", vec![u64::MAX as f64, 1.0, f64::NAN, -1.0]),
        ]
    }

    #[test]
    fn charts_are_drawn_as_before() {
        let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ui/chart_golden");
        for (name, values) in examples() {
            let labels: Vec<String> = (0..values.len()).map(|place| format!("{place:02}:00")).collect();
            let axis = Axis {
                id: "c",
                title: "Mail",
                text: "By hour.",
                labels: &labels,
                every: labels.len().div_ceil(6),
                unit: "",
                limit: None,
            };
            let series = [Series { name: "delivered", color: "ok", values: &values }];
            let rate = Axis { id: "r", title: "Rate", unit: " %", limit: Some(5.0), ..axis };
            let rates: Vec<f64> = values.iter().map(|value| value / 1000.0).collect();
            let rates = [Series { name: "bounced", color: "accent", values: &rates }];
            let drawn = [bars(&axis, &series), lines(&rate, &rates), spark(&values)].map(Markup::into_string);
            // One element a line, so that a comparison of goldens shows what changed.
            let drawn = drawn.join("\n").replace("><", ">\n<") + "\n";
            assert!(!drawn.contains("NaN") && !drawn.contains("inf") && !drawn.contains("style="), "{drawn}");
            let file = directory.join(format!("{name}.svg"));
            if std::env::var_os("UPDATE_GOLDEN").is_some() {
                std::fs::write(&file, &drawn).unwrap();
            }
            assert_eq!(
                drawn,
                std::fs::read_to_string(&file).unwrap(),
                "{name}; UPDATE_GOLDEN=1 writes it anew"
            );
        }
    }
}
