//! Settings of garbage collection (upstream's contract: config, §3).

use std::time::Duration;

use daemon::{Config, Env};

use super::{
    decide::{NOT_READY, READY},
    facts::{Switches, Timing},
};
use crate::settings::Error;

/// Variables of upstream that mean nothing here, because nothing is dropped and nothing is polled: accepted if they are numbers.
const WITHOUT_EFFECT: [&str; 4] = [
    "SPIDERPOOL_GC_CHANNEL_BUFFER",
    "SPIDERPOOL_GC_MAX_PODENTRY_DB_CAP",
    "SPIDERPOOL_GC_SIGNAL_TIMEOUT_DURATION",
    "SPIDERPOOL_GC_HTTP_REQUEST_TIME_GAP",
];

/// How garbage is collected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `SPIDERPOOL_GC_DEFAULT_INTERVAL_DURATION`: between two full scans.
    pub interval: Duration,
    /// `SPIDERPOOL_GC_IP_WORKER_NUM`: pods looked at at the same time.
    pub workers: usize,
    /// `SPIDERPOOL_GC_TRACE_POD_GAP_DURATION`: the least time between two looks at a pod.
    pub gap: Duration,
    /// `SPIDERPOOL_GC_PODENTRY_MAX_RETRIES`: quick tries after failures; then once each interval.
    pub tries: u32,
    /// Whether pods of `apps/v1` StatefulSets have fixed addresses.
    pub stateful_set: bool,
    /// Whether virtual machines have.
    pub kubevirt: bool,
    /// What may be collected.
    pub switches: Switches,
    /// What makes it safe.
    pub timing: Timing,
}

impl Settings {
    /// Reads the environment; `None` if garbage collection is switched off.
    pub fn new(config: &Config, env: &Env) -> Result<Option<Self>, Error> {
        let seconds = |name, default| env.number(name, default).map(Duration::from_secs);
        for name in WITHOUT_EFFECT {
            env.number::<u64>(name, 0)?;
        }
        let default = Switches::default();
        let settings = Self {
            interval: Duration::from_secs(positive(env, "SPIDERPOOL_GC_DEFAULT_INTERVAL_DURATION", 600)?),
            workers: usize::try_from(positive(env, "SPIDERPOOL_GC_IP_WORKER_NUM", 3)?).unwrap_or(usize::MAX),
            gap: seconds("SPIDERPOOL_GC_TRACE_POD_GAP_DURATION", 5)?,
            tries: env.number("SPIDERPOOL_GC_PODENTRY_MAX_RETRIES", 5)?,
            stateful_set: config.enable_stateful_set,
            kubevirt: config.enable_kubevirt_static_ip,
            switches: Switches {
                ready_node: env.required_flag(READY, default.ready_node)?,
                not_ready_node: env.required_flag(NOT_READY, default.not_ready_node)?,
                empty_ips: env.required_flag(
                    "SPIDERPOOL_GC_ENABLE_STATELESS_RUNNING_POD_ON_EMPTY_POD_STATUS_IPS",
                    default.empty_ips,
                )?,
                clean_outdated: config.enable_clean_outdated_endpoint,
                delay: seconds("SPIDERPOOL_GC_ADDITIONAL_GRACE_DELAY", 0)?,
            },
            timing: Timing::default(),
        };
        Ok(env.required_flag("SPIDERPOOL_GC_IP_ENABLED", true)?.then_some(settings))
    }
}

fn positive(env: &Env, name: &'static str, default: u64) -> Result<u64, Error> {
    match env.number(name, default)? {
        0 => Err(Error::Meaning { name, value: "0".to_owned(), expected: "a number greater than 0" }),
        number => Ok(number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(vars: &[(&str, &str)]) -> Result<Option<Settings>, Error> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "enableStatefulSet: true\nenableCleanOutdatedEndpoint: true").unwrap();
        let config = daemon::config::load(file.path()).unwrap().config;
        Settings::new(&config, &vars.iter().copied().collect())
    }

    #[test]
    fn a_node_that_is_not_ready_keeps_its_addresses_by_default() {
        let settings = settings(&[]).unwrap().unwrap();
        let switches = settings.switches;
        assert_eq!((switches.ready_node, switches.not_ready_node, switches.empty_ips), (true, false, false));
        assert!(switches.clean_outdated && settings.stateful_set && !settings.kubevirt);
        assert_eq!((settings.interval.as_secs(), settings.gap.as_secs(), switches.delay.as_secs()), (600, 5, 0));
        assert_eq!((settings.workers, settings.tries), (3, 5));
    }

    #[test]
    fn every_variable_is_read() {
        let vars = [
            (READY, "false"),
            (NOT_READY, "true"),
            ("SPIDERPOOL_GC_ENABLE_STATELESS_RUNNING_POD_ON_EMPTY_POD_STATUS_IPS", "true"),
            ("SPIDERPOOL_GC_ADDITIONAL_GRACE_DELAY", "7"),
            ("SPIDERPOOL_GC_DEFAULT_INTERVAL_DURATION", "60"),
            ("SPIDERPOOL_GC_IP_WORKER_NUM", "8"),
            ("SPIDERPOOL_GC_TRACE_POD_GAP_DURATION", "2"),
            ("SPIDERPOOL_GC_PODENTRY_MAX_RETRIES", "9"),
            ("SPIDERPOOL_GC_CHANNEL_BUFFER", "5000"),
        ];
        let settings = settings(&vars).unwrap().unwrap();
        let switches = settings.switches;
        assert_eq!((switches.ready_node, switches.not_ready_node, switches.empty_ips), (false, true, true));
        assert_eq!((settings.interval.as_secs(), settings.gap.as_secs(), switches.delay.as_secs()), (60, 2, 7));
        assert_eq!((settings.workers, settings.tries), (8, 9));
    }

    #[test]
    fn it_can_be_switched_off() {
        assert_eq!(settings(&[("SPIDERPOOL_GC_IP_ENABLED", "false")]).unwrap(), None);
    }

    #[test]
    fn a_bad_value_is_named_also_where_it_means_nothing() {
        for (name, value, expected) in [
            (
                "SPIDERPOOL_GC_DEFAULT_INTERVAL_DURATION",
                "0",
                "environment variable SPIDERPOOL_GC_DEFAULT_INTERVAL_DURATION: \"0\" is not a number greater than 0",
            ),
            (
                "SPIDERPOOL_GC_CHANNEL_BUFFER",
                "many",
                "environment variable SPIDERPOOL_GC_CHANNEL_BUFFER: \"many\" is not a decimal number in range",
            ),
        ] {
            assert_eq!(settings(&[(name, value)]).unwrap_err().to_string(), expected);
        }
    }
}
