//! Bars from left to right, a name above each, as SVG inside a page.
//!
//! A bar begins at a base, such as a ratio of one or a share of zero, so that its direction says which side is ahead.

use plotters::coord::Shift;
use plotters::prelude::*;

use super::chart::{ChartError, INK, PAGE_SIZE, Scale, inked, rgb};

/// One bar.
#[derive(Debug, Clone, PartialEq)]
pub struct Bar {
    /// What stands above it.
    pub name: String,
    /// Where it ends.
    pub value: f64,
    /// What stands behind it.
    pub told: String,
    /// Where its true end lies, if that is known.
    pub interval: Option<[f64; 2]>,
    /// Which of the colours it has.
    pub colour: usize,
}

/// Bars over one axis.
#[derive(Debug, Clone, PartialEq)]
pub struct Bars {
    /// Their title.
    pub title: String,
    /// How values lie along the axis.
    pub scale: Scale,
    /// Where every bar begins.
    pub base: f64,
    /// Values that the axis spans at least.
    pub spans: (f64, f64),
    /// The bars from top to bottom.
    pub bars: Vec<Bar>,
}

/// Pixels of a bar and its name.
const STEP: i32 = 37;
/// Pixels of a bar.
const THICK: i32 = 13;
/// Pixels above the first bar and below the last.
const EDGE: i32 = 6;
/// Pixels at the right for what stands behind the longest bar.
const TOLD: i32 = 96;

impl Bars {
    /// The picture.
    ///
    /// # Errors
    /// Without a bar that has a place on the axis.
    pub fn on_page(&self) -> Result<String, ChartError> {
        let has_place = |value: f64| value.is_finite() && (self.scale == Scale::Linear || value > 0.0);
        let bars: Vec<&Bar> = self.bars.iter().filter(|bar| has_place(bar.value)).collect();
        if bars.is_empty() {
            return Err(ChartError::Empty(self.title.clone()));
        }
        let ends = bars.iter().flat_map(|bar| bar.interval.into_iter().flatten().chain([bar.value])).filter(|end| has_place(*end));
        let (low, high) = ends.fold(self.spans, |(low, high), end| (low.min(end), high.max(end)));
        let size = (PAGE_SIZE.0, (STEP * bars.len() as i32 + 2 * EDGE) as u32);
        let along = |value: f64| match self.scale {
            Scale::Linear => value,
            Scale::Log => value.ln(),
        };
        let place = |value: f64| {
            let share = (along(value) - along(low)) / (along(high) - along(low)).max(f64::MIN_POSITIVE);
            EDGE + (share.clamp(0.0, 1.0) * f64::from(PAGE_SIZE.0 as i32 - TOLD - EDGE)).round() as i32
        };
        let mut text = String::new();
        {
            let root = SVGBackend::with_string(&mut text, size).into_drawing_area();
            self.draw(&root, &bars, place)
                .and_then(|()| root.present())
                .map_err(|why| ChartError::Drawing(self.title.clone(), why.to_string()))?;
        }
        Ok(inked(&text))
    }

    fn draw<'a>(
        &self,
        root: &DrawingArea<SVGBackend<'a>, Shift>,
        bars: &[&Bar],
        place: impl Fn(f64) -> i32,
    ) -> Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>> {
        let ink = |size: u32| ("sans-serif", size).into_font().color(&INK);
        let base = place(self.base);
        for (index, bar) in bars.iter().enumerate() {
            let top = EDGE + STEP * index as i32;
            let (above, below) = (top + 17, top + 17 + THICK);
            let end = place(bar.value);
            root.draw(&Text::new(bar.name.clone(), (EDGE, top), ink(13)))?;
            // A bar of no length is still seen.
            let (left, right) = if end == base { (base, base + 1) } else { (base.min(end), base.max(end)) };
            root.draw(&Rectangle::new([(left, above), (right, below)], rgb(bar.colour).filled()))?;
            let mut behind = right;
            if let Some([low, high]) = bar.interval {
                let (low, high, middle) = (place(low), place(high), (above + below) / 2);
                behind = behind.max(high);
                for line in [[(low, middle), (high, middle)], [(low, above + 2), (low, below - 2)], [(high, above + 2), (high, below - 2)]]
                {
                    root.draw(&PathElement::new(line, INK.stroke_width(2)))?;
                }
            }
            // where every bar begins, beside the bars and not through their names
            root.draw(&PathElement::new([(base, above - 2), (base, below + 2)], INK.stroke_width(1)))?;
            root.draw(&Text::new(bar.told.clone(), (behind + 6, above), ink(13)))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(value: f64, interval: Option<[f64; 2]>) -> Bar {
        Bar { name: "a < b".to_owned(), value, told: format!("{value}x"), interval, colour: 0 }
    }

    fn bars(scale: Scale, base: f64, bars: Vec<Bar>) -> Bars {
        Bars { title: "ratios".to_owned(), scale, base, spans: (base, base), bars }
    }

    /// Left and right of every bar.
    fn spans(picture: &str) -> Vec<(i32, i32)> {
        let number = |rest: &str, name: &str| -> i32 {
            let rest = rest.split(&format!(" {name}=\"")).nth(1).unwrap();
            rest.split('"').next().unwrap().parse().unwrap()
        };
        let rests = picture.split("<rect").skip(1).map(|rest| rest.split("/>").next().unwrap());
        rests.map(|rest| (number(rest, "x"), number(rest, "x") + number(rest, "width"))).collect()
    }

    #[test]
    fn a_ratio_above_one_goes_right_and_one_below_goes_left() {
        let picture = bars(Scale::Log, 1.0, vec![bar(4.0, Some([3.0, 5.0])), bar(0.5, None)]).on_page().unwrap();
        let [(left, right), (second_left, second_right)] = spans(&picture)[..] else { panic!("{picture}") };
        assert!(left == second_right && right > left && second_left < left, "{picture}");
        // twice as long: four is two doublings, a half is one
        assert!(((right - left) - 2 * (second_right - second_left)).abs() <= 2, "{picture}");
        assert!(picture.contains("a &lt; b") && picture.contains("4x") && !picture.contains("#808080"));
    }

    #[test]
    fn what_has_no_place_is_left_out_and_nothing_at_all_is_told() {
        let picture = bars(Scale::Log, 1.0, vec![bar(2.0, None), bar(0.0, None), bar(f64::NAN, None)]).on_page().unwrap();
        assert_eq!(spans(&picture).len(), 1);
        assert!(bars(Scale::Log, 1.0, vec![bar(-1.0, None)]).on_page().unwrap_err().to_string().contains("ratios"));
        // equal ones are seen as well
        assert!(spans(&bars(Scale::Linear, 0.0, vec![bar(0.0, None)]).on_page().unwrap())[0].1 > 0);
    }
}
