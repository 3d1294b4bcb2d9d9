//! Session tokens of the security hardening mode. A token is good for the machine that fetched it, for the time it asked for.

use std::collections::HashMap;
use std::io::Read;
use std::ops::RangeInclusive;
use std::time::Duration;

/// How long a token may last.
pub const TTL: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(21_600);

/// The tokens given out. Time is an argument: since the start of the service.
#[derive(Debug, Default)]
pub struct Tokens {
    given: HashMap<String, (String, Duration)>,
}

impl Tokens {
    /// Remembers a token for a machine, and forgets those that ran out.
    pub fn add(&mut self, now: Duration, token: String, node: &str, ttl: Duration) {
        self.given.retain(|_, (_, until)| *until > now);
        self.given.insert(token, (node.to_owned(), now + ttl));
    }

    /// Whether this machine may still use the token.
    pub fn is_valid(&self, now: Duration, token: &str, node: &str) -> bool {
        self.given.get(token).is_some_and(|(owner, until)| owner == node && *until > now)
    }
}

/// A token nobody can guess.
pub fn random() -> String {
    let mut bytes = [0; 24];
    let read = std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    read.expect("the kernel has random bytes");
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_for_its_machine_and_its_time() {
        let (mut tokens, second) = (Tokens::default(), Duration::from_secs(1));
        tokens.add(second, "t".into(), "master", 10 * second);
        assert!(tokens.is_valid(10 * second, "t", "master"));
        assert!(!tokens.is_valid(11 * second, "t", "master"), "expired");
        assert!(!tokens.is_valid(second, "t", "worker"), "another machine's");
        assert!(!tokens.is_valid(second, "u", "master"), "never given");
    }

    #[test]
    fn two_tokens_differ() {
        assert_ne!(random(), random());
    }
}
