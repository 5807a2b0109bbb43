//! Charts as SVG, by `plotters`: lines and points over two axes, one chart below another in a picture, or one by itself in a page.
//!
//! The background is clear and every colour stands out on white and on black, so that a page may be light or dark.

use plotters::coord::Shift;
use plotters::coord::combinators::BindKeyPoints;
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;

/// How values lie along an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Evenly.
    Linear,
    /// By their logarithm; values that have none are left out.
    Log,
}

/// An axis.
#[derive(Debug, Clone, PartialEq)]
pub struct Axis {
    /// What it measures, and in what unit.
    pub label: String,
    /// How values lie along it.
    pub scale: Scale,
    /// Values that it spans at least.
    pub spans: Option<(f64, f64)>,
}

/// How the points of a line are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// Joined; where they are few, each is marked too.
    Joined,
    /// Joined by dashes, and not marked: a bound, not a measurement.
    Dashed,
    /// Each by itself.
    Apart,
}

/// A line through points.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// Its name in the legend.
    pub name: String,
    /// `(x, y)` from left to right.
    pub points: Vec<(f64, f64)>,
    /// How they are shown.
    pub mark: Mark,
}

/// Lines over two axes.
#[derive(Debug, Clone, PartialEq)]
pub struct Chart {
    /// Its title.
    pub title: String,
    /// Across.
    pub x: Axis,
    /// Up.
    pub y: Axis,
    /// What is drawn.
    pub lines: Vec<Line>,
}

/// Where a chart is drawn, and where its legend.
type Areas<'a, 'b> = (&'b DrawingArea<SVGBackend<'a>, Shift>, Option<&'b DrawingArea<SVGBackend<'a>, Shift>>);

/// Why there is no picture.
#[derive(Debug, thiserror::Error)]
pub enum ChartError {
    /// Nothing to draw.
    #[error("{0:?} has no point to draw")]
    Empty(String),
    /// What the library said.
    #[error("{0:?} cannot be drawn: {1}")]
    Drawing(String, String),
}

/// Width and height of a chart in pixels.
const SIZE: (u32, u32) = (860, 280);
/// The same in a page: no wider than text stays readable at the width of a telephone.
pub const PAGE_SIZE: (u32, u32) = (380, 280);
/// Pixels of the legend beside it.
const LEGEND: u32 = 190;
/// Points of a line that are marked one by one.
const MOST_MARKED: usize = 24;
/// Pixels between two lines of the legend.
const LEGEND_STEP: i32 = 17;
/// Text and axes.
pub(super) const INK: RGBColor = RGBColor(128, 128, 128);
/// Lines by turns: Okabe and Ito's colours, without black, and two more.
const COLOURS: [RGBColor; 9] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(190, 180, 40),
    RGBColor(126, 87, 194),
    RGBColor(141, 110, 99),
];

/// The colour of line `index`, as a style sheet writes it.
pub fn colour(index: usize) -> String {
    let RGBColor(red, green, blue) = rgb(index);
    format!("#{red:02X}{green:02X}{blue:02X}")
}

/// The mark of line `index`, as a character: lines that share a colour differ in it.
pub fn sign(index: usize) -> &'static str {
    match index / COLOURS.len() {
        0 => "\u{25CF}",
        1 => "\u{25B2}",
        _ => "\u{2716}",
    }
}

/// The colour of line `index`.
pub(super) fn rgb(index: usize) -> RGBColor {
    COLOURS[index % COLOURS.len()]
}

/// A picture whose ink is the text's colour of the page that it is put into.
pub(super) fn inked(picture: &str) -> String {
    let RGBColor(red, green, blue) = INK;
    picture.replace(&format!("\"#{red:02X}{green:02X}{blue:02X}\""), "\"currentColor\"")
}

impl Line {
    /// A line whose points are joined.
    pub fn joined(name: impl Into<String>, points: Vec<(f64, f64)>) -> Self {
        Self { name: name.into(), points, mark: Mark::Joined }
    }
}

impl Axis {
    /// An evenly divided axis.
    pub fn linear(label: &str) -> Self {
        Self { label: label.to_owned(), scale: Scale::Linear, spans: None }
    }

    /// A logarithmic axis.
    pub fn log(label: &str) -> Self {
        Self { scale: Scale::Log, ..Self::linear(label) }
    }

    /// Whether `value` has a place on it.
    fn takes(&self, value: f64) -> bool {
        value.is_finite() && (self.scale == Scale::Linear || value > 0.0)
    }

    /// From where to where it goes for `values`, of which there is at least one: never from a value to itself.
    fn range(&self, values: impl Iterator<Item = f64>) -> std::ops::Range<f64> {
        let (low, high) = values
            .chain(self.spans.iter().flat_map(|(low, high)| [*low, *high]))
            .fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(v), high.max(v)));
        match self.scale {
            Scale::Log => {
                let room = (high / low).powf(0.04).max(1.1);
                low / room..high * room
            }
            Scale::Linear => {
                let room = if high > low { 0.03 * (high - low) } else { 0.5 };
                low - room..high + room
            }
        }
    }
}

/// Where a logarithmic axis is ruled and labelled: at 1, 2 and 5 of each power of ten, over a few of them; at the powers alone over
/// many. The library rules powers alone, of which a short axis may have none.
fn log_ticks(range: &std::ops::Range<f64>) -> Vec<f64> {
    let (low, high) = (range.start.log10(), range.end.log10());
    let steps: &[f64] = if high - low < 0.7 {
        &[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0]
    } else if high - low < 3.0 {
        &[1.0, 2.0, 5.0]
    } else {
        &[1.0]
    };
    let powers = low.floor() as i32..=high.floor() as i32;
    powers.flat_map(|power| steps.iter().map(move |step| step * 10f64.powi(power))).filter(|tick| range.contains(tick)).collect()
}

impl Chart {
    /// Its points that have a place on both axes, a line at a time.
    fn placed(&self) -> Vec<Vec<(f64, f64)>> {
        let has_place = |point: &&(f64, f64)| self.x.takes(point.0) && self.y.takes(point.1);
        self.lines.iter().map(|line| line.points.iter().filter(has_place).copied().collect()).collect()
    }

    fn draw<'a>(
        &self,
        area: &DrawingArea<SVGBackend<'a>, Shift>,
        legend: Option<&DrawingArea<SVGBackend<'a>, Shift>>,
    ) -> Result<(), ChartError> {
        let placed = self.placed();
        if placed.iter().all(Vec::is_empty) {
            return Err(ChartError::Empty(self.title.clone()));
        }
        let x = self.x.range(placed.iter().flatten().map(|point| point.0));
        let y = self.y.range(placed.iter().flatten().map(|point| point.1));
        let log = |range: std::ops::Range<f64>| {
            let ticks = log_ticks(&range);
            range.log_scale().with_key_points(ticks)
        };
        match (self.x.scale, self.y.scale) {
            (Scale::Linear, Scale::Linear) => self.draw_over((area, legend), &placed, x, y),
            (Scale::Linear, Scale::Log) => self.draw_over((area, legend), &placed, x, log(y)),
            (Scale::Log, Scale::Linear) => self.draw_over((area, legend), &placed, log(x), y),
            (Scale::Log, Scale::Log) => self.draw_over((area, legend), &placed, log(x), log(y)),
        }
        .map_err(|error| ChartError::Drawing(self.title.clone(), error))
    }

    fn draw_over<'a, X, Y>(&self, (plot, legend): Areas<'a, '_>, placed: &[Vec<(f64, f64)>], x: X, y: Y) -> Result<(), String>
    where
        X: AsRangedCoord<Value = f64>,
        Y: AsRangedCoord<Value = f64>,
        X::CoordDescType: ValueFormatter<f64>,
        Y::CoordDescType: ValueFormatter<f64>,
    {
        let told = |error: DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>| error.to_string();
        let ink = |size: u32| ("sans-serif", size).into_font().color(&INK);
        let mut builder = ChartBuilder::on(plot);
        builder.margin(6).x_label_area_size(36).y_label_area_size(if legend.is_some() { 62 } else { 52 });
        // a page writes title and legend itself, where they can be selected and wrapped.
        if legend.is_some() {
            builder.caption(&self.title, ink(17));
        }
        let mut chart = builder.build_cartesian_2d(x, y).map_err(told)?;
        chart
            .configure_mesh()
            .axis_style(INK)
            .bold_line_style(INK.mix(0.35))
            .light_line_style(INK.mix(0.1))
            .label_style(ink(12))
            .axis_desc_style(ink(13))
            .x_desc(&self.x.label)
            .y_desc(&self.y.label)
            .x_labels(if legend.is_some() { 9 } else { 6 })
            .y_labels(6)
            .max_light_lines(2)
            .x_label_formatter(&|value| short(*value))
            .y_label_formatter(&|value| short(*value))
            .draw()
            .map_err(told)?;
        for (index, (points, line)) in placed.iter().zip(&self.lines).enumerate() {
            let colour = rgb(index);
            let points = || points.iter().copied();
            match line.mark {
                Mark::Joined => chart.draw_series(LineSeries::new(points(), colour.stroke_width(2))).map(drop),
                Mark::Dashed => chart.draw_series(DashedLineSeries::new(points(), 6, 4, colour.stroke_width(2))).map(drop),
                Mark::Apart => Ok(()),
            }
            .map_err(told)?;
            // A line of few points is read at its points. Lines that share a colour differ in their marks.
            if line.mark == Mark::Apart || line.mark == Mark::Joined && points().count() <= MOST_MARKED {
                match index / COLOURS.len() {
                    0 => chart.draw_series(points().map(|point| Circle::new(point, 3, colour.filled()))).map(drop),
                    1 => chart.draw_series(points().map(|point| TriangleMarker::new(point, 5, colour.filled()))).map(drop),
                    _ => chart.draw_series(points().map(|point| Cross::new(point, 4, colour.stroke_width(2)))).map(drop),
                }
                .map_err(told)?;
            }
            let Some(legend) = legend else { continue };
            let top = 34 + index as i32 * LEGEND_STEP;
            legend.draw(&PathElement::new([(4, top), (20, top)], colour.stroke_width(3))).map_err(told)?;
            legend.draw(&Text::new(line.name.clone(), (26, top - 7), ink(12))).map_err(told)?;
        }
        Ok(())
    }
}

/// A value as an axis writes it: four digits at most, and powers of ten where it is far from one.
fn short(value: f64) -> String {
    let size = value.abs();
    if size != 0.0 && !(1e-3..1e6).contains(&size) {
        return format!("{value:.0e}");
    }
    let places = if size >= 100.0 { 0 } else { 4 };
    let text = format!("{value:.places$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// Charts one below another as one SVG picture.
///
/// # Errors
/// A chart without a point.
pub fn svg(charts: &[Chart]) -> Result<String, ChartError> {
    let mut text = String::new();
    {
        let size = (SIZE.0, SIZE.1 * charts.len().max(1) as u32);
        let root = SVGBackend::with_string(&mut text, size).into_drawing_area();
        for (area, chart) in root.split_evenly((charts.len().max(1), 1)).iter().zip(charts) {
            let (plot, legend) = area.split_horizontally(SIZE.0 - LEGEND);
            chart.draw(&plot, Some(&legend))?;
        }
        root.present().map_err(|error| ChartError::Drawing("the picture".to_owned(), error.to_string()))?;
    }
    Ok(text)
}

/// A chart by itself as SVG inside a page, which writes its title and its legend ([`colour`]) beside it.
///
/// # Errors
/// A chart without a point.
pub fn on_page(chart: &Chart) -> Result<String, ChartError> {
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, PAGE_SIZE).into_drawing_area();
        chart.draw(&root, None)?;
        root.present().map_err(|error| ChartError::Drawing(chart.title.clone(), error.to_string()))?;
    }
    Ok(inked(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(y: Axis, points: &[(f64, f64)]) -> Chart {
        let lines = vec![Line::joined("a < b", points.to_vec())];
        Chart { title: "loss & rate".to_owned(), x: Axis::linear("step"), y, lines }
    }

    #[test]
    fn every_line_and_every_name_is_in_the_picture() {
        let points = [(0.0, 1.0), (10.0, 0.1), (20.0, 0.01)];
        let both = [chart(Axis::log("loss"), &points), chart(Axis { spans: Some((0.0, 1.0)), ..Axis::linear("share") }, &points)];
        let picture = svg(&both).unwrap();
        assert!(picture.starts_with("<svg") && picture.contains("height=\"560\""), "{picture}");
        assert_eq!(picture.matches("<polyline fill=\"none\" opacity=\"1\" stroke=\"#0072B2\" stroke-width=\"2\"").count(), 2);
        for text in ["loss &amp; rate", "a &lt; b", "step", "share"] {
            assert!(picture.contains(text), "{text}");
        }
        assert_eq!(picture.matches("<circle").count(), 6);
    }

    #[test]
    fn what_has_no_place_is_left_out_and_nothing_at_all_is_told() {
        let picture = svg(&[chart(Axis::log("loss"), &[(0.0, 0.0), (1.0, f64::NAN), (2.0, 3.0)])]).unwrap();
        assert_eq!(picture.matches("<circle").count(), 1);
        assert!(!picture.contains("NaN") && !picture.contains("inf"));
        for points in [&[][..], &[(1.0, -1.0)]] {
            let error = svg(&[chart(Axis::log("loss"), points)]).unwrap_err().to_string();
            assert!(error.contains("loss & rate"), "{error}");
        }
    }

    #[test]
    fn a_page_has_the_marks_without_title_and_legend_in_its_own_ink() {
        let mut chart = chart(Axis::log("loss"), &[(1.0, 1.0), (2.0, 30.0)]);
        chart.lines.push(Line { name: "bound".to_owned(), points: vec![(1.0, 2.0), (2.0, 2.0)], mark: Mark::Dashed });
        chart.lines.extend((2..11).map(|index| Line {
            name: "point".to_owned(),
            points: vec![(1.0, f64::from(index))],
            mark: Mark::Apart,
        }));
        let picture = on_page(&chart).unwrap();
        assert!(!picture.contains("loss &amp; rate") && !picture.contains("#808080") && picture.contains("currentColor"));
        // two of the joined line, one of each of seven points; the last two share the first colours and are triangles
        assert_eq!((picture.matches("<circle").count(), picture.matches("<polygon").count()), (9, 2), "{picture}");
        assert_eq!((colour(0), colour(9)), ("#0072B2".to_owned(), "#0072B2".to_owned()));
        assert!(sign(0) != sign(9));
    }

    #[test]
    fn a_logarithmic_axis_is_ruled_wherever_it_lies() {
        assert_eq!(log_ticks(&(18.0..220.0)), [20.0, 50.0, 100.0, 200.0]);
        assert_eq!(log_ticks(&(0.5..2000.0)), [1.0, 10.0, 100.0, 1000.0]);
        assert_eq!(log_ticks(&(3.2..4.4)), [4.0]);
    }

    #[test]
    fn axes_write_short_numbers() {
        let told = [0.0, 0.25, 0.0001, 12.5, 1250.0, 2e6, -0.5].map(short);
        assert_eq!(told, ["0", "0.25", "1e-4", "12.5", "1250", "2e6", "-0.5"]);
    }
}
