//! Settings from the environment, by upstream's rules (`SPIDERPOOL_*`).
//!
//! A value is trimmed. An unset variable takes its default; one that is set but empty is an error where the setting is required, even if
//! there is a default, and the zero value where it is optional.

use std::collections::BTreeMap;

/// The variables of a process.
#[derive(Clone, Debug, Default)]
pub struct Env(BTreeMap<String, String>);

/// A variable that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Required and without default.
    #[error("environment variable {name} is required and not set")]
    Missing {
        /// Name of the variable.
        name: &'static str,
    },
    /// Set to nothing.
    #[error("environment variable {name} is required and empty")]
    Empty {
        /// Name of the variable.
        name: &'static str,
    },
    /// Not of its type.
    #[error("environment variable {name}: {value:?} is not {expected}")]
    Invalid {
        /// Name of the variable.
        name: &'static str,
        /// Its value.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
}

impl Env {
    /// The environment of this process.
    pub fn of_process() -> Self {
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect()
    }

    /// The same variables without the quotes that a template may have put around their values.
    pub fn unquoted(&self) -> Self {
        let bare = |value: &str| {
            let value = value.trim();
            let quote = value.chars().next().filter(|first| matches!(first, '"' | '\''));
            let inner = quote.and_then(|quote| value.strip_prefix(quote)?.strip_suffix(quote));
            inner.unwrap_or(value).to_owned()
        };
        self.0.iter().map(|(name, value)| (name.clone(), bare(value))).collect()
    }

    fn trimmed(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|value| value.trim())
    }

    /// A text without default that must not be empty.
    pub fn required(&self, name: &'static str) -> Result<String, Error> {
        match self.trimmed(name) {
            None => Err(Error::Missing { name }),
            Some("") => Err(Error::Empty { name }),
            Some(value) => Ok(value.to_owned()),
        }
    }

    /// A text that may be empty.
    pub fn text(&self, name: &'static str, default: &str) -> String {
        self.trimmed(name).unwrap_or(default).to_owned()
    }

    /// A boolean as Go spells it; empty is false.
    pub fn flag(&self, name: &'static str, default: bool) -> Result<bool, Error> {
        match self.trimmed(name) {
            None => Ok(default),
            Some("") => Ok(false),
            Some(value) => go_bool(value).ok_or_else(|| invalid(name, value, "a boolean (true or false)")),
        }
    }

    /// A boolean that must not be empty.
    pub fn required_flag(&self, name: &'static str, default: bool) -> Result<bool, Error> {
        self.not_empty(name)?;
        self.flag(name, default)
    }

    /// A decimal number that must not be empty.
    pub fn number<T: std::str::FromStr>(&self, name: &'static str, default: T) -> Result<T, Error> {
        self.not_empty(name)?;
        Ok(self.optional_number(name)?.unwrap_or(default))
    }

    /// A decimal number; `None` when unset or empty.
    pub fn optional_number<T: std::str::FromStr>(&self, name: &'static str) -> Result<Option<T>, Error> {
        match self.trimmed(name) {
            None | Some("") => Ok(None),
            Some(value) => value.parse().map(Some).map_err(|_| invalid(name, value, "a decimal number in range")),
        }
    }

    /// A TCP port; 0 lets the kernel choose.
    pub fn port(&self, name: &'static str, default: u16) -> Result<u16, Error> {
        self.not_empty(name)?;
        match self.trimmed(name) {
            None => Ok(default),
            Some(value) => value.parse().map_err(|_| invalid(name, value, "a TCP port (0 to 65535)")),
        }
    }

    fn not_empty(&self, name: &'static str) -> Result<(), Error> {
        if self.trimmed(name) == Some("") { Err(Error::Empty { name }) } else { Ok(()) }
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Env {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(vars: I) -> Self {
        Self(vars.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

fn invalid(name: &'static str, value: &str, expected: &'static str) -> Error {
    Error::Invalid { name, value: value.to_owned(), expected }
}

/// The spellings of Go's `strconv.ParseBool`.
pub fn go_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(value: &str) -> Env {
        Env::from_iter([("V", value)])
    }

    #[test]
    fn unset_takes_the_default_and_empty_depends_on_the_kind() {
        let unset = Env::default();
        assert_eq!(unset.required("V"), Err(Error::Missing { name: "V" }));
        assert_eq!((unset.flag("V", true), unset.number("V", 7), unset.port("V", 5710)), (Ok(true), Ok(7), Ok(5710)));
        assert_eq!((unset.text("V", "x"), unset.optional_number::<u8>("V")), ("x".to_owned(), Ok(None)));
        let empty = env("  ");
        assert_eq!(empty.required("V"), Err(Error::Empty { name: "V" }));
        assert_eq!((empty.flag("V", true), empty.text("V", "x")), (Ok(false), String::new()));
        assert_eq!(
            (empty.required_flag("V", true), empty.number("V", 7)),
            (Err(Error::Empty { name: "V" }), Err(Error::Empty { name: "V" }))
        );
    }

    #[test]
    fn values_are_trimmed_and_bad_ones_named() {
        assert_eq!((env(" T ").flag("V", false), env(" 12 ").number("V", 0u32)), (Ok(true), Ok(12)));
        assert_eq!(
            env("yes").flag("V", false).unwrap_err().to_string(),
            "environment variable V: \"yes\" is not a boolean (true or false)"
        );
        assert_eq!(
            env("70000").port("V", 0).unwrap_err().to_string(),
            "environment variable V: \"70000\" is not a TCP port (0 to 65535)"
        );
        assert!(env("0x10").number("V", 0u32).is_err());
    }
}
