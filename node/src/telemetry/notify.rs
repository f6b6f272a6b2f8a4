//! Words to systemd: ready, status, stopping, and a watchdog that is fed by the gossip loop's own turns.

use std::time::Duration;

use sd_notify::NotifyState;
use tracing::debug;

fn tell(states: &[NotifyState<'_>]) {
    // Without systemd there is nobody to tell; that is not an error.
    if let Err(error) = sd_notify::notify(states) {
        debug!(%error, "the service manager was not told");
    }
}

/// `READY=1` with a first status.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// What `systemctl status` shows.
pub fn status(status: &str) {
    tell(&[NotifyState::Status(status)]);
}

/// `STOPPING=1`.
pub fn stopping(status: &str) {
    tell(&[NotifyState::Stopping, NotifyState::Status(status)]);
}

/// `WATCHDOG=1`.
pub fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// How often systemd wants to hear [`alive`]: half of its limit; `None` when it has no watchdog for us.
#[must_use]
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2)
}
