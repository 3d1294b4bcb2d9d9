//! Logs: JSON lines on standard output in upstream's shape (`level`, `ts`, `logger`, `msg`, then the fields of span and event).

use std::fmt;
use std::io::{self, Write};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
pub use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormattedFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

/// Libraries whose own debug output helps nobody who runs a cluster.
const QUIET: [&str; 6] = ["hyper", "hyper_util", "h2", "rustls", "tower", "kube_client"];

/// Libraries that tell every failed request at once, without saying of what: whoever asked tells it.
const SILENT: [&str; 2] = ["kube_client::client::builder", "kube_runtime::watcher"];

/// A level that is none of upstream's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("log level {0:?} is none of debug, info, warn, error, fatal, panic")]
pub struct LevelError(String);

/// A level by upstream's names (any case); `fatal` and `panic` show errors only.
pub fn level(name: &str) -> Result<LevelFilter, LevelError> {
    match name.to_ascii_lowercase().as_str() {
        "debug" => Ok(LevelFilter::DEBUG),
        "info" => Ok(LevelFilter::INFO),
        "warn" => Ok(LevelFilter::WARN),
        "error" | "fatal" | "panic" => Ok(LevelFilter::ERROR),
        _ => Err(LevelError(name.to_owned())),
    }
}

/// Logs of this process go to standard output from here on.
pub fn start(level: LevelFilter) -> Result<(), TryInitError> {
    let quiet = QUIET.map(|target| (target, level.min(LevelFilter::INFO)));
    let silent = SILENT.map(|target| (target, LevelFilter::OFF));
    let filter = Targets::new().with_default(level).with_targets(quiet).with_targets(silent);
    let lines =
        tracing_subscriber::fmt::layer().fmt_fields(JsonFields::new()).event_format(Lines).with_writer(io::stdout);
    tracing_subscriber::registry().with(filter).with(lines).try_init()
}

/// Upstream's line.
struct Lines;

impl<S> FormatEvent<S, JsonFields> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    JsonFields: for<'w> FormatFields<'w>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        for span in context.event_scope().into_iter().flat_map(|scope| scope.from_root()) {
            if let Some(formatted) = span.extensions().get::<FormattedFields<JsonFields>>()
                && let Ok(serde_json::Value::Object(of_span)) = serde_json::from_str(&formatted.fields)
            {
                fields.values.extend(of_span);
            }
        }
        event.record(&mut fields);
        let metadata = event.metadata();
        let mut line = serde_json::Map::new();
        line.insert("level".into(), upper(metadata.level()).into());
        line.insert("ts".into(), timestamp().into());
        line.insert("logger".into(), metadata.target().into());
        if *metadata.level() != Level::INFO
            && let (Some(file), Some(number)) = (metadata.file(), metadata.line())
        {
            line.insert("caller".into(), format!("{}:{number}", source(file)).into());
        }
        line.insert("msg".into(), fields.message.into());
        line.extend(fields.values);
        writeln!(writer, "{}", serde_json::Value::Object(line))
    }
}

/// A source file's path without the place where the libraries were on the machine that built this program.
fn source(file: &str) -> &str {
    let below = file.split_once("/registry/src/").and_then(|(_, rest)| rest.split_once('/'));
    below.map_or(file, |(_, path)| path)
}

fn upper(level: &Level) -> &'static str {
    match *level {
        Level::ERROR => "ERROR",
        Level::WARN => "WARN",
        Level::INFO => "INFO",
        Level::DEBUG | Level::TRACE => "DEBUG",
    }
}

fn timestamp() -> String {
    use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
    let mut text = String::new();
    match SystemTime.format_time(&mut Writer::new(&mut text)) {
        Ok(()) => text.trim().to_owned(),
        Err(_) => String::new(),
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    values: serde_json::Map<String, serde_json::Value>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: serde_json::Value) {
        match (field.name(), value) {
            ("message", serde_json::Value::String(text)) => self.message = text,
            (name, value) => drop(self.values.insert(name.trim_start_matches("r#").to_owned(), value)),
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
}

/// One line on standard error for an end that happens before or instead of logs.
pub fn complain(process: &str, text: &str) {
    let _ = writeln!(io::stderr(), "{process}: {text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_is_named_without_the_builders_directories() {
        assert_eq!(source("/home/x/.cargo/registry/src/index-1/kube-5.0.0/src/a.rs"), "kube-5.0.0/src/a.rs");
        assert_eq!(source("crates/agent/src/main.rs"), "crates/agent/src/main.rs");
    }
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_has_upstreams_members_and_the_fields_of_its_spans() {
        let buffer = Buffer::default();
        let sink = buffer.clone();
        let lines = tracing_subscriber::fmt::layer()
            .fmt_fields(JsonFields::new())
            .event_format(Lines)
            .with_writer(move || sink.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), || {
            let span = tracing::info_span!("add", PodName = "web", n = 3);
            let _entered = span.enter();
            tracing::info!(target: "IPAM", error = %"x", "claim failed");
        });
        let text = String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap();
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        for (member, expected) in
            [("level", "INFO"), ("logger", "IPAM"), ("msg", "claim failed"), ("PodName", "web"), ("error", "x")]
        {
            assert_eq!(line[member], expected, "{text}");
        }
        assert_eq!(line["n"], 3, "{text}");
        assert!(line["ts"].as_str().unwrap().ends_with('Z'), "{text}");
    }

    #[test]
    fn levels_are_upstreams() {
        assert_eq!((level("Debug"), level("PANIC")), (Ok(LevelFilter::DEBUG), Ok(LevelFilter::ERROR)));
        assert_eq!(
            level("loud").unwrap_err().to_string(),
            "log level \"loud\" is none of debug, info, warn, error, fatal, panic"
        );
    }
}
