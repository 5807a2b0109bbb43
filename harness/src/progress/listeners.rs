//! Events as bars, as plain lines, as JSON lines.

use std::io::Write;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::{Event, Listener, StageTime};

/// Bars with the time left, for a person at a terminal; on standard error.
pub struct Bars {
    screen: MultiProgress,
    running: Vec<(&'static str, ProgressBar)>,
}

impl Bars {
    /// No bar yet.
    #[expect(clippy::new_without_default, reason = "a screen is opened, not defaulted")]
    pub fn new() -> Self {
        Self { screen: MultiProgress::new(), running: Vec::new() }
    }

    fn start(&mut self, stage: &'static str, total: Option<u64>) {
        const KNOWN: &str = "{prefix:<14} {wide_bar} {pos}/{len}  {elapsed} gone, {eta} left";
        const UNKNOWN: &str = "{prefix:<14} {spinner} {pos} done  {elapsed} gone";
        let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
        if let Ok(style) = ProgressStyle::with_template(if total.is_some() { KNOWN } else { UNKNOWN }) {
            bar.set_style(style);
        }
        bar.set_prefix(stage);
        let bar = self.screen.add(bar);
        // The clock moves on while a long step is running.
        bar.enable_steady_tick(Duration::from_millis(250));
        self.running.push((stage, bar));
    }

    fn bar(&self, stage: &str) -> Option<&ProgressBar> {
        self.running.iter().rev().find(|(name, _)| *name == stage).map(|(_, bar)| bar)
    }

    fn remove(&mut self, stage: &str) {
        if let Some(place) = self.running.iter().rposition(|(name, _)| *name == stage) {
            self.running.remove(place).1.finish_and_clear();
        }
    }

    fn line(&self, text: &str) {
        let _ = self.screen.println(text);
    }
}

impl Listener for Bars {
    fn hear(&mut self, event: &Event) {
        match event {
            Event::StageStarted { stage, total } => self.start(stage, *total),
            Event::Advanced { stage, done, .. } => {
                if let Some(bar) = self.bar(stage) {
                    bar.set_position(*done);
                }
            }
            Event::StageEnded(time) => {
                self.remove(time.stage);
                self.line(&ended(time));
            }
            Event::StageLeft { stage } => self.remove(stage),
            Event::Note { text } => self.line(text),
        }
    }
}

/// Plain lines, for a log: the start and the end of a stage, and how far it is, every few seconds at most.
pub struct Lines<W> {
    out: W,
    /// When the running stage was last spoken of, since its start.
    spoken: Duration,
}

/// A log has at most one line of progress in this time.
const BETWEEN_LINES: Duration = Duration::from_secs(5);

impl<W: Write + Send> Lines<W> {
    /// Lines written to `out`.
    pub fn new(out: W) -> Self {
        Self { out, spoken: Duration::ZERO }
    }
}

impl<W: Write + Send> Listener for Lines<W> {
    fn hear(&mut self, event: &Event) {
        let line = match event {
            Event::StageStarted { stage, total } => {
                self.spoken = Duration::ZERO;
                match total {
                    Some(total) => format!("{stage}: 0/{total}"),
                    None => format!("{stage} ..."),
                }
            }
            Event::Advanced { stage, done, total, elapsed } => {
                if elapsed.saturating_sub(self.spoken) < BETWEEN_LINES {
                    return;
                }
                self.spoken = *elapsed;
                let total = total.map_or_else(String::new, |total| format!("/{total}"));
                let left = event.seconds_left().map_or_else(String::new, |left| format!(", about {} left", time(left)));
                format!("{stage}: {done}{total} after {}{left}", time(elapsed.as_secs_f64()))
            }
            Event::StageEnded(time) => ended(time),
            Event::StageLeft { stage } => format!("{stage}: stopped"),
            Event::Note { text } => text.clone(),
        };
        let _ = writeln!(self.out, "{line}");
    }
}

/// One JSON object a line, for a program.
pub struct JsonLines<W> {
    out: W,
}

impl<W: Write + Send> JsonLines<W> {
    /// Lines written to `out`.
    pub fn new(out: W) -> Self {
        Self { out }
    }
}

impl<W: Write + Send> Listener for JsonLines<W> {
    fn hear(&mut self, event: &Event) {
        if let Ok(line) = serde_json::to_string(event) {
            let _ = writeln!(self.out, "{line}").and_then(|()| self.out.flush());
        }
    }
}

fn ended(stage: &StageTime) -> String {
    let peak = stage.peak_memory.map_or_else(String::new, |bytes| format!(", peak memory {:.2} GiB", bytes as f64 / f64::from(1 << 30)));
    format!("{}: done in {}{peak}", stage.stage, time(stage.elapsed.as_secs_f64()))
}

/// A time in words: `0.42 s`, `12.3 s`, `4 min 05 s`, `1 h 02 min`.
pub fn time(seconds: f64) -> String {
    match seconds {
        ..9.995 => format!("{seconds:.2} s"),
        ..119.95 => format!("{seconds:.1} s"),
        ..3599.5 => {
            let whole = seconds.round() as u64;
            format!("{} min {:02} s", whole / 60, whole % 60)
        }
        _ => {
            let minutes = (seconds / 60.0).round() as u64;
            format!("{} h {:02} min", minutes / 60, minutes % 60)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events() -> Vec<Event> {
        let advanced = |done, seconds| Event::Advanced { stage: "denoise", done, total: Some(4), elapsed: Duration::from_secs(seconds) };
        vec![
            Event::Note { text: "seed 7".to_owned() },
            Event::StageStarted { stage: "denoise", total: Some(4) },
            advanced(1, 2),
            advanced(2, 6),
            advanced(3, 8),
            advanced(4, 300),
            Event::StageEnded(StageTime { stage: "denoise", elapsed: Duration::from_millis(300_250), peak_memory: Some(3 << 29) }),
            Event::StageStarted { stage: "decode", total: None },
            Event::StageLeft { stage: "decode" },
        ]
    }

    #[test]
    fn a_log_gets_few_plain_lines() {
        let mut out = Vec::new();
        let mut lines = Lines::new(&mut out);
        events().iter().for_each(|event| lines.hear(event));
        let expected = "seed 7\ndenoise: 0/4\ndenoise: 2/4 after 6.00 s, about 6.00 s left\ndenoise: 4/4 after 5 min 00 s, about 0.00 s left\n\
                        denoise: done in 5 min 00 s, peak memory 1.50 GiB\ndecode ...\ndecode: stopped\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn a_program_gets_every_event_as_json() {
        let mut out = Vec::new();
        let mut lines = JsonLines::new(&mut out);
        events().iter().for_each(|event| lines.hear(event));
        let lines: Vec<&str> = std::str::from_utf8(&out).unwrap().lines().collect();
        assert_eq!(lines.len(), events().len());
        assert_eq!(lines[1], r#"{"event":"stage_started","stage":"denoise","total":4}"#);
        assert_eq!(lines[2], r#"{"event":"advanced","stage":"denoise","done":1,"total":4,"elapsed_seconds":2.0}"#);
        assert_eq!(lines[6], r#"{"event":"stage_ended","stage":"denoise","elapsed_seconds":300.25,"peak_memory_bytes":1610612736}"#);
        assert_eq!(lines[7], r#"{"event":"stage_started","stage":"decode"}"#);
    }

    #[test]
    fn bars_come_and_go() {
        let mut bars = Bars::new();
        for event in events() {
            bars.hear(&event);
        }
        assert!(bars.running.is_empty());
    }

    #[test]
    fn a_closed_pipe_is_no_error() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(std::io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Err(std::io::ErrorKind::BrokenPipe.into())
            }
        }
        events().iter().for_each(|event| Lines::new(Closed).hear(event));
        events().iter().for_each(|event| JsonLines::new(Closed).hear(event));
    }

    #[test]
    fn times_are_short() {
        let times: Vec<String> = [0.0, 9.994, 9.996, 119.94, 119.96, 3599.4, 3599.6, 7260.0].into_iter().map(time).collect();
        assert_eq!(times, ["0.00 s", "9.99 s", "10.0 s", "119.9 s", "2 min 00 s", "59 min 59 s", "1 h 00 min", "2 h 01 min"]);
    }
}
