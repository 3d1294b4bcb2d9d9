//! The times of the election.

use std::time::Duration;

use daemon::Env;

use super::Error;
use crate::leader::Timing;

const DURATION: &str = "SPIDERPOOL_LEADER_DURATION";
const DEADLINE: &str = "SPIDERPOOL_LEADER_RENEW_DEADLINE";
const PERIOD: &str = "SPIDERPOOL_LEADER_RETRY_PERIOD";
const GAP: &str = "SPIDERPOOL_LEADER_RETRY_GAP";

/// Reads them; a leader must stop before others may take over, and try more than once before it stops.
pub fn timing(env: &Env) -> Result<Timing, Error> {
    let duration: u64 = env.number(DURATION, 15)?;
    let deadline: u64 = env.number(DEADLINE, 10)?;
    let period: u64 = env.number(PERIOD, 2)?;
    let gap: u64 = env.number(GAP, 1)?;
    let relation = |name, value, relation, other, limit| Err(Error::Relation { name, value, relation, other, limit });
    if period == 0 {
        return Err(Error::Meaning { name: PERIOD, value: "0".to_owned(), expected: "a number of seconds above 0" });
    }
    if period >= deadline {
        return relation(PERIOD, period, "less than", DEADLINE, deadline);
    }
    if deadline >= duration {
        return relation(DEADLINE, deadline, "less than", DURATION, duration);
    }
    if i32::try_from(duration).is_err() {
        let value = duration.to_string();
        return Err(Error::Meaning { name: DURATION, value, expected: "a number of seconds that a Lease can hold" });
    }
    Ok(Timing {
        duration: Duration::from_secs(duration),
        renew_deadline: Duration::from_secs(deadline),
        retry_period: Duration::from_secs(period),
        retry_gap: Duration::from_secs(gap),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_upstreams_and_impossible_times_are_named() {
        let defaults = timing(&Env::default()).unwrap();
        let seconds = [defaults.duration, defaults.renew_deadline, defaults.retry_period, defaults.retry_gap];
        assert_eq!(seconds.map(|time| time.as_secs()), [15, 10, 2, 1]);
        for (name, value, text) in [
            (DEADLINE, "15", "SPIDERPOOL_LEADER_RENEW_DEADLINE: 15 is not less than SPIDERPOOL_LEADER_DURATION (15)"),
            (PERIOD, "10", "SPIDERPOOL_LEADER_RETRY_PERIOD: 10 is not less than SPIDERPOOL_LEADER_RENEW_DEADLINE (10)"),
            (PERIOD, "0", "SPIDERPOOL_LEADER_RETRY_PERIOD: \"0\" is not a number of seconds above 0"),
            (
                DURATION,
                "3000000000",
                "SPIDERPOOL_LEADER_DURATION: \"3000000000\" is not a number of seconds that a Lease can hold",
            ),
            (DURATION, "soon", "SPIDERPOOL_LEADER_DURATION: \"soon\" is not a decimal number in range"),
        ] {
            let error = timing(&Env::from_iter([(name, value)])).unwrap_err().to_string();
            assert_eq!(error, format!("environment variable {text}"));
        }
    }
}
