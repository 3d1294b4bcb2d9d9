//! `spiderpool-controller health`: an exit code for health checks of images, which have neither shell nor `curl`.

use std::time::Duration;

use clap::Args;
use daemon::probe::{self, Probe};

/// Flags of `health`.
#[derive(Clone, Debug, Args)]
pub struct Flags {
    /// startup, readiness or liveness.
    #[arg(long, default_value = "readiness")]
    probe: Probe,
    /// Port on which the controller answers probes.
    #[arg(long, env = "SPIDERPOOL_HEALTH_PORT", default_value_t = 5720)]
    port: u16,
    /// Seconds to wait for the answer.
    #[arg(long, default_value_t = 1)]
    timeout: u64,
}

impl Flags {
    /// Asks the controller of this machine.
    pub fn ask(&self) -> anyhow::Result<()> {
        Ok(probe::ask(self.port, self.probe, Duration::from_secs(self.timeout.max(1)))?)
    }
}
