//! What a failed request means to its caller.

use kube::core::Status;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Longest wait for the answer to one request.
pub const REQUEST_LIMIT: Duration = Duration::from_secs(10);

/// Why a request has no result. Only [`Failure::Unknown`] leaves open whether it happened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// 404 for this object.
    #[error("not found")]
    NotFound,
    /// 409: the name is taken.
    #[error("already exists")]
    AlreadyExists,
    /// 409: UID or version are not the expected ones.
    #[error("changed by somebody else")]
    Conflict,
    /// It did not happen, and repeating it does not help.
    #[error("{0}")]
    Refused(String),
    /// Time-out, lost connection, 429, 5xx: it may have happened or may still happen.
    #[error("{0}")]
    Unknown(String),
}

impl Failure {
    /// Did the API server fail to answer?
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown(_))
    }
}

impl From<kube::Error> for Failure {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => of_status(&status),
            // The request was never sent.
            kube::Error::BuildRequest(source) => Self::Refused(source.to_string()),
            other => Self::Unknown(with_causes(&other)),
        }
    }
}

/// 404 without an object in the details means that the kind itself is not served.
fn of_status(status: &Status) -> Failure {
    let text = if status.message.is_empty() { status.reason.clone() } else { status.message.clone() };
    match (status.code, status.reason.as_str()) {
        (404, _) if status.details.as_ref().is_none_or(|details| details.name.is_empty()) => {
            Failure::Refused(format!("{text} (are the custom resource definitions installed?)"))
        }
        (404, _) => Failure::NotFound,
        // Of the API server's authorizer; admission says 403 as well.
        (403, _) if text.contains("is forbidden: User ") => Failure::Refused(format!(
            "{text} (a permission is missing: `helm upgrade` puts the roles of the chart right)"
        )),
        (409, "AlreadyExists") => Failure::AlreadyExists,
        (409, _) => Failure::Conflict,
        (429 | 500..=599, _) => Failure::Unknown(format!("{text} ({})", status.code)),
        // 410: a list that goes on too late. Starting again helps.
        (410, _) => Failure::Unknown(text),
        (0, _) => Failure::Unknown(text),
        _ => Failure::Refused(text),
    }
}

/// kube's errors mostly repeat their source; hyper's hide it.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

/// Waits for a request, but not longer than [`REQUEST_LIMIT`]. What is no success is counted.
pub async fn bounded<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, Failure> {
    within(REQUEST_LIMIT, request).await
}

async fn within<T>(limit: Duration, request: impl Future<Output = kube::Result<T>>) -> Result<T, Failure> {
    let (code, failure) = match tokio::time::timeout(limit, request).await {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(error)) => (code(&error), Failure::from(error)),
        Err(_) => (Code::Late, Failure::Unknown(format!("no answer from the API server within {limit:?}"))),
    };
    *ERRORS.lock().unwrap_or_else(PoisonError::into_inner).entry(code).or_default() += 1;
    Err(failure)
}

/// What came instead of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Code {
    /// A status with this code.
    Status(u16),
    /// Nothing in time.
    Late,
    /// Nothing: the connection was lost, or the request was not sent.
    Nothing,
}

/// How often, since the process began.
static ERRORS: Mutex<BTreeMap<Code, u64>> = Mutex::new(BTreeMap::new());

fn code(error: &kube::Error) -> Code {
    match error {
        kube::Error::Api(status) if status.code > 0 => Code::Status(status.code),
        _ => Code::Nothing,
    }
}

/// Name of the series of [`errors`], without `_total`.
pub const ERRORS_NAME: &str = "spiderpool_api_error_counts";
/// What it counts.
pub const ERRORS_HELP: &str = "Requests to the API server that had no success, by the code of the answer";

/// How often [`bounded`] requests had no success since the process began, by the code of the answer; `timeout` and `none` where there was no
/// answer.
pub fn errors() -> Vec<(String, u64)> {
    let errors = ERRORS.lock().unwrap_or_else(PoisonError::into_inner);
    let text = |code: &Code| match code {
        Code::Status(code) => code.to_string(),
        Code::Late => "timeout".to_owned(),
        Code::Nothing => "none".to_owned(),
    };
    errors.iter().map(|(code, count)| (text(code), *count)).collect()
}

/// 404 as `None`.
pub fn optional<T>(outcome: Result<T, Failure>) -> Result<Option<T>, Failure> {
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(Failure::NotFound) => Ok(None),
        Err(failure) => Err(failure),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u16, reason: &str, name: &str) -> Status {
        let text = serde_json::json!({"code": code, "reason": reason, "message": "m", "details": {"name": name}});
        serde_json::from_value(text).unwrap()
    }

    /// No other test of this process asks for anything.
    #[tokio::test]
    async fn what_is_no_success_is_counted_by_its_code() {
        let count = |code: &str| errors().into_iter().find(|(one, _)| one == code).map_or(0, |(_, count)| count);
        let before = ["418", "timeout", "none"].map(count);
        let teapot = || std::future::ready(Err::<(), _>(kube::Error::Api(Box::new(status(418, "Teapot", "")))));
        for _ in 0..3 {
            bounded(teapot()).await.unwrap_err();
        }
        within(Duration::ZERO, std::future::pending::<kube::Result<()>>()).await.unwrap_err();
        bounded(std::future::ready(Err::<(), _>(kube::Error::LinesCodecMaxLineLengthExceeded))).await.unwrap_err();
        bounded(std::future::ready(Ok(()))).await.unwrap();
        let after = ["418", "timeout", "none"].map(count);
        assert_eq!([0, 1, 2].map(|n| after[n] - before[n]), [3, 1, 1]);
    }

    #[test]
    fn a_missing_permission_is_told_with_its_remedy() {
        let mut status = status(403, "Forbidden", "");
        status.message = "pods is forbidden: User \"agent\" cannot list resource \"pods\"".into();
        let Failure::Refused(text) = of_status(&status) else { panic!("403 is a refusal") };
        assert!(text.starts_with(&status.message) && text.contains("helm upgrade"), "{text}");
    }

    #[test]
    fn a_status_tells_whether_it_happened() {
        for (code, reason, name, expected) in [
            (404, "NotFound", "x", Failure::NotFound),
            (404, "NotFound", "", Failure::Refused("m (are the custom resource definitions installed?)".into())),
            (409, "AlreadyExists", "x", Failure::AlreadyExists),
            (409, "Conflict", "x", Failure::Conflict),
            (403, "Forbidden", "x", Failure::Refused("m".into())),
            (422, "Invalid", "x", Failure::Refused("m".into())),
            (429, "TooManyRequests", "x", Failure::Unknown("m (429)".into())),
            (503, "ServiceUnavailable", "x", Failure::Unknown("m (503)".into())),
            (410, "Expired", "", Failure::Unknown("m".into())),
        ] {
            assert_eq!(of_status(&status(code, reason, name)), expected, "{code} {reason} {name:?}");
        }
    }
}
