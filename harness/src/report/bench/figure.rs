//! A chart with its title, its legend and what a reader must know, as a page shows it.

use crate::report::bars::Bars;
use crate::report::chart::{self, Chart, ChartError, Mark};

/// An entry of a legend.
#[derive(Debug, Clone, PartialEq)]
pub struct Key {
    /// What it stands for.
    pub name: String,
    /// Its colour, as a style sheet writes it.
    pub colour: String,
    /// Its mark.
    pub sign: &'static str,
}

/// A chart in a page.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// What it shows.
    pub title: String,
    /// What a reader must know.
    pub note: String,
    /// Its legend; none where its bars are named.
    pub legend: Vec<Key>,
    /// The picture as SVG.
    pub picture: String,
}

/// A chart of lines.
///
/// # Errors
/// One without a point.
pub fn lines(chart: &Chart, note: String) -> Result<Figure, ChartError> {
    let key = |(index, line): (usize, &chart::Line)| Key {
        name: line.name.clone(),
        colour: chart::colour(index),
        sign: if line.mark == Mark::Dashed { "\u{2504}" } else { chart::sign(index) },
    };
    let legend = chart.lines.iter().enumerate().map(key).collect();
    Ok(Figure { title: chart.title.clone(), note, legend, picture: chart::on_page(chart)? })
}

/// A chart of bars.
///
/// # Errors
/// One without a bar.
pub fn bars(bars: &Bars, note: String) -> Result<Figure, ChartError> {
    Ok(Figure { title: bars.title.clone(), note, legend: Vec::new(), picture: bars.on_page()? })
}
