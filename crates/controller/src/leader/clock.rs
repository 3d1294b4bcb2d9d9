//! Time since boot, with the time that the machine was suspended: a lease goes on running while its holder sleeps.

use std::time::Duration;

/// A point of time, as the time since boot.
pub type Moment = Duration;

/// Now.
pub fn now() -> Moment {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::try_from(time).unwrap_or_default() // it is never negative
}

/// Sleeps until `moment`. May wake later than that after a suspension: who acts on the time looks again.
pub async fn sleep_until(moment: Moment) {
    tokio::time::sleep(moment.saturating_sub(now())).await;
}
