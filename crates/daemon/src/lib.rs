//! What the long-running processes share: environment and configuration file, logs, metrics, health, shutdown, owned tasks.
//!
//! Owns the rules by which settings are read and the form in which the process speaks to its operator. Knows nothing of Kubernetes.

pub mod config;
pub mod env;
pub mod health;
pub mod log;
pub mod metrics;
pub mod probe;
pub mod tasks;
pub mod tls;

pub use config::Config;
pub use env::Env;
pub use health::Readiness;
pub use tasks::{Stop, Tasks};

use std::error::Error;
use std::fmt;

/// Prints an error with its causes on one line, leaving out a cause that its parent already printed.
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut printed = self.0.to_string();
        f.write_str(&printed)?;
        let mut next = self.0.source();
        while let Some(cause) = next {
            let text = cause.to_string();
            if !printed.contains(&text) {
                write!(f, ": {text}")?;
                printed = text;
            }
            next = cause.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Link {
        text: &'static str,
        #[source]
        source: Option<Box<Link>>,
    }

    fn chain(texts: &[&'static str]) -> Option<Box<Link>> {
        let (text, rest) = texts.split_first()?;
        Some(Box::new(Link { text, source: chain(rest) }))
    }

    #[test]
    fn a_cause_is_printed_once() {
        for (texts, expected) in [
            (&["a"][..], "a"),
            (&["a", "b", "c"], "a: b: c"),
            (&["read x: no such file", "no such file"], "read x: no such file"),
            (&["a: b", "b", "c"], "a: b: c"),
        ] {
            assert_eq!(Chain(&*chain(texts).unwrap()).to_string(), expected);
        }
    }
}
