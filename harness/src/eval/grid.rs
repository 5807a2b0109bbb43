//! The rows of a sweep: every number of steps with every way of sampling, attention and arithmetic.

use crate::error::Error;
use crate::eval::row::{self, Arithmetic, Configuration, Net, Row, Steps, StepsWord};
use crate::request::AttentionChoice;

/// Most rows that a grid may have: each is a video for each prompt and seed.
const MOST_ROWS: usize = 1000;

/// What is varied; every list has a value.
#[derive(Debug, Clone)]
pub struct Grid {
    /// Steps.
    pub steps: Vec<StepsWord>,
    /// Noise levels of the first step.
    pub sigma_max: Vec<f64>,
    /// Without and with new noise between few steps: `true` is without.
    pub ode: Vec<bool>,
    /// Ways of self-attention.
    pub attention: Vec<AttentionChoice>,
    /// Arithmetics.
    pub arithmetic: Vec<Arithmetic>,
}

impl Grid {
    /// The rows, each once. Before those of one way of sampling stands its dense f32 row, which they are held to; where only
    /// one noise level (or one sampler) is asked for, rows do not name it.
    ///
    /// # Errors
    /// More rows than anybody waits for, or the teacher's steps, whose network is not among those that are swept.
    pub fn rows(&self) -> Result<Vec<Row>, Error> {
        let mut rows = Vec::new();
        for word in &self.steps {
            let StepsWord::Own(steps) = *word else {
                return Err(Error::flag("--steps", "a sweep is of one model; `turbowan eval --teacher` puts a teacher beside it"));
            };
            // guided steps draw no new noise
            let samplers = if matches!(steps, Steps::Few(_)) { self.ode.len() } else { 1 };
            for sigma_max in &self.sigma_max {
                for ode in &self.ode[..samplers] {
                    let sigma_max = (self.sigma_max.len() > 1).then_some(*sigma_max);
                    let ode = (samplers > 1).then_some(*ode);
                    let made = |attention: AttentionChoice, Arithmetic { precision, quant_linear }| Configuration {
                        net: Net::Model,
                        steps,
                        attention,
                        precision,
                        quant_linear,
                        sigma_max,
                        ode,
                    };
                    let ways =
                        self.attention.iter().flat_map(|attention| self.arithmetic.iter().map(|arithmetic| made(*attention, *arithmetic)));
                    let ways: Vec<_> = ways.collect();
                    rows.extend(ways.first().map(|way| way.dense()));
                    rows.extend(ways);
                }
            }
        }
        let rows = row::unique(rows.into_iter().map(Row::Made).collect());
        if rows.len() > MOST_ROWS {
            return Err(Error::flag("sweep", format!("{} ways of making a video are more than {MOST_ROWS}; leave some out", rows.len())));
        }
        Ok(rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(steps: &str, sigma_max: &[f64], ode: &[bool], attention: &str, precision: &str) -> Grid {
        Grid {
            steps: row::steps(steps).unwrap(),
            sigma_max: sigma_max.to_vec(),
            ode: ode.to_vec(),
            attention: row::attention(attention, 0.1).unwrap(),
            arithmetic: row::arithmetic(precision).unwrap(),
        }
    }

    fn names(grid: &Grid) -> Vec<String> {
        grid.rows().unwrap().iter().map(Row::to_string).collect()
    }

    #[test]
    fn every_way_stands_behind_the_dense_row_that_it_is_held_to() {
        let want = [
            "2 steps, original, f32",
            "2 steps, original, bf16",
            "2 steps, sla 0.3, f32",
            "2 steps, sla 0.3, bf16",
            "1 step, original, f32",
            "1 step, original, bf16",
            "1 step, sla 0.3, f32",
            "1 step, sla 0.3, bf16",
        ];
        assert_eq!(names(&grid("2,1", &[80.0], &[false], "original,sla:0.3", "f32,bf16")), want);
        let rows = grid("2", &[80.0], &[false], "sla:0.3", "bf16").rows().unwrap();
        assert_eq!(row::references(&rows, 1), [(row::Against::Dense, 0)]);
    }

    #[test]
    fn noise_levels_and_samplers_are_named_where_they_vary_and_guided_steps_have_one_sampler() {
        let want = [
            "1 step, sigma 80, sde, original, f32",
            "1 step, sigma 80, ode, original, f32",
            "1 step, sigma 200, sde, original, f32",
            "1 step, sigma 200, ode, original, f32",
            "9 guided steps, sigma 80, original, f32",
            "9 guided steps, sigma 200, original, f32",
        ];
        assert_eq!(names(&grid("1,guided:9", &[80.0, 200.0], &[false, true], "original", "f32")), want);
    }

    #[test]
    fn too_many_rows_and_a_teacher_are_refused() {
        assert!(grid("teacher:9", &[80.0], &[false], "original", "f32").rows().unwrap_err().to_string().contains("eval --teacher"));
        let sigmas: Vec<f64> = (1..2000).map(f64::from).collect();
        assert!(grid("1", &sigmas, &[false], "original", "f32").rows().unwrap_err().to_string().contains("more than 1000"));
    }
}
