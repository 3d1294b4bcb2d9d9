//! Files of the operator or of cert-manager, mounted from a Secret: read again when they change.

use std::{path::PathBuf, time::Duration};

use daemon::{Chain, Stop, health::Guard};
use tokio::sync::Notify;

use super::{
    Served,
    x509::{self, Fault},
};

/// How often files are looked at.
const LOOK: Duration = Duration::from_secs(5);

/// Certificate and key.
#[derive(Clone, Debug)]
pub struct Files {
    /// `--tls-server-cert`.
    pub cert: PathBuf,
    /// `--tls-server-key`.
    pub key: PathBuf,
}

/// Files that cannot be used.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("cannot read {}", .0.display())]
    Read(PathBuf, #[source] std::io::Error),
    #[error("cannot use certificate {} with key {}", cert.display(), key.display())]
    Unusable {
        cert: PathBuf,
        key: PathBuf,
        #[source]
        source: Box<Fault>,
    },
}

impl Files {
    /// Shows what the files hold, until `stop`. A pair that cannot be used is reported and tried again; what was shown
    /// before is shown on. `bundle_changed` is told of a new pair, or CA.
    pub async fn follow(
        self,
        served: Served,
        bundle_changed: &Notify,
        first: Guard,
        stop: Stop,
    ) -> Result<(), std::convert::Infallible> {
        let (mut first, mut seen, mut complaint, mut known) = (Some(first), None, None, None);
        loop {
            let ca = tokio::fs::read_to_string(self.ca()).await.ok();
            if ca.is_some() && ca != known {
                known = ca;
                bundle_changed.notify_one();
            }
            match self.read().await {
                Ok(read) if seen.as_ref() == Some(&read) => {}
                Ok(read) => match self.show(&served, &read) {
                    Ok(()) => {
                        (seen, complaint) = (Some(read), None);
                        bundle_changed.notify_one();
                        drop(first.take());
                    }
                    Err(error) => complain(&mut complaint, &error),
                },
                Err(error) => complain(&mut complaint, &error),
            }
            if stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_none() {
                return Ok(());
            }
        }
    }

    /// The CA beside the certificate.
    pub fn ca(&self) -> PathBuf {
        self.cert.with_file_name("ca.crt")
    }

    async fn read(&self) -> Result<(String, String), Error> {
        let text = async |path: &PathBuf| {
            tokio::fs::read_to_string(path).await.map_err(|source| Error::Read(path.clone(), source))
        };
        Ok((text(&self.cert).await?, text(&self.key).await?))
    }

    fn show(&self, served: &Served, (cert, key): &(String, String)) -> Result<(), Error> {
        let unusable =
            |fault| Error::Unusable { cert: self.cert.clone(), key: self.key.clone(), source: Box::new(fault) };
        let (pair, leaf) = x509::pair(cert, key).map_err(unusable)?;
        let now = x509::now();
        let (from, expires) = (x509::shown(leaf.not_before), x509::shown(leaf.not_after));
        if leaf.is_valid(now) {
            tracing::info!(cert = %self.cert.display(), expires, "webhook certificate read");
        } else {
            tracing::error!(
                cert = %self.cert.display(), from, expires, clock = x509::shown(now),
                "the webhook certificate is not valid now: replace it, or put the clock right"
            );
        }
        served.replace(pair, leaf.not_after);
        Ok(())
    }
}

fn complain(last: &mut Option<String>, error: &Error) {
    let text = Chain(error).to_string();
    if last.as_ref() != Some(&text) {
        tracing::error!(error = text, "no new webhook certificate; tried again until the files are right");
        *last = Some(text);
    }
}
