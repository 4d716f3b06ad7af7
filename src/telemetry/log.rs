//! The log: filter, text or JSON, to standard output.

use super::writer::{QueueWriter, Queued};
use core::fmt;
use tracing::field::{Field, Visit};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;

/// How to log.
#[derive(Clone, Debug, Default)]
pub struct LogConfig {
    /// `HOLDFAST_LOG`: `info`, or directives as `info,holdfast::call=debug`.
    pub filter: String,
    /// `HOLDFAST_LOG_FORMAT`.
    pub format: LogFormat,
    /// `HOLDFAST_LOG_PERSONAL`.
    pub personal: Personal,
}

/// Form of a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One object a line.
    Json,
}

/// What becomes of numbers and URIs in the log above DEBUG.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Personal {
    /// As they are.
    #[default]
    Show,
    /// All but the last two characters hidden.
    Mask,
}

impl Personal {
    /// Wraps a number, a name or an address for the log.
    pub fn wrap<T: fmt::Display>(self, value: T) -> String {
        let text = value.to_string();
        match self {
            Self::Show => text,
            Self::Mask => {
                let length = text.chars().count();
                let kept = if length > 3 { 2 } else { 0 };
                let tail: String = text.chars().skip(length - kept).collect();
                format!("…{tail}")
            }
        }
    }
}

/// Lines still queued are written when it is dropped.
pub struct LogGuard {
    _writer: QueueWriter,
    set_filter: Box<dyn Fn(EnvFilter)>,
}

impl fmt::Debug for LogGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogGuard").finish_non_exhaustive()
    }
}

impl LogGuard {
    /// Other lines from now on, by a filter that was checked.
    pub fn set_filter(&self, text: &str) {
        (self.set_filter)(EnvFilter::builder().parse_lossy(text));
    }
}

/// Whether a filter can be read.
pub fn check_filter(text: &str) -> Result<(), String> {
    EnvFilter::builder().parse(text).map(|_| ()).map_err(|error| error.to_string())
}

/// Starts logging. Once a process; a second start changes nothing.
pub fn init(config: &LogConfig) -> LogGuard {
    let (writer, queued) = QueueWriter::start();
    let filter = EnvFilter::builder().parse_lossy(&config.filter);
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_writer(move || -> Queued { queued.clone() });
    // An error means that a subscriber is there already: tests start several nodes in one process.
    let set_filter: Box<dyn Fn(EnvFilter)> = match config.format {
        LogFormat::Text => {
            let builder = builder.with_ansi(false).fmt_fields(SentenceFields);
            let builder = builder.with_filter_reloading();
            let handle = builder.reload_handle();
            let _ = builder.try_init();
            Box::new(move |filter| _ = handle.reload(filter))
        }
        LogFormat::Json => {
            let builder = builder.json().flatten_event(true).with_target(true);
            let builder = builder.with_filter_reloading();
            let handle = builder.reload_handle();
            let _ = builder.try_init();
            Box::new(move |filter| _ = handle.reload(filter))
        }
    };
    LogGuard { _writer: writer, set_filter }
}

/// Prints the message and plain fields. Fields with a dot in their name repeat what the sentence
/// says; they are for JSON only.
#[derive(Debug)]
struct SentenceFields;

impl<'writer> FormatFields<'writer> for SentenceFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut visitor = Sentence { writer, result: Ok(()), is_first: true };
        fields.record(&mut visitor);
        visitor.result
    }
}

struct Sentence<'writer> {
    writer: Writer<'writer>,
    result: fmt::Result,
    is_first: bool,
}

impl Visit for Sentence<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if self.result.is_err() || field.name().contains('.') {
            return;
        }
        let space = if self.is_first { "" } else { " " };
        self.is_first = false;
        self.result = match field.name() {
            "message" => write!(self.writer, "{space}{value:?}"),
            name => write!(self.writer, "{space}{name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn personal_data_can_be_masked() {
        for (text, masked) in
            [("", "…"), ("110", "…"), ("1001", "…01"), ("+4930123456", "…56"), ("äöüßé", "…ßé")]
        {
            assert_eq!(Personal::Mask.wrap(text), masked);
            assert_eq!(Personal::Show.wrap(text), text);
        }
    }
}
