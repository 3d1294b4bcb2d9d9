//! What an operator can do about an error of the API server, said with the error.

use std::{error::Error, fmt};

use daemon::Chain;
use kube::core::Status;

/// An error with its causes and, where one is known, what to do about it.
pub struct Explained<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Explained<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Chain(self.0))?;
        match advice(self.0) {
            Some(advice) => write!(f, " ({advice})"),
            None => Ok(()),
        }
    }
}

fn advice(error: &(dyn Error + 'static)) -> Option<&'static str> {
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(kube::Error::Api(status)) = cause.downcast_ref::<kube::Error>() {
            return of_status(status);
        }
        if let Some(status) = cause.downcast_ref::<Status>() {
            return of_status(status);
        }
        if let Some(kube::Error::HyperError(_) | kube::Error::Service(_)) = cause.downcast_ref::<kube::Error>()
            && cause.source().is_none_or(|inner| !inner.is::<crate::leader::fence::Unsent>())
        {
            return Some("the API server does not answer; tried again");
        }
        next = cause.source();
    }
    None
}

fn of_status(status: &Status) -> Option<&'static str> {
    match status.code {
        401 => Some("the API server does not accept the token: was the ServiceAccount made anew, or is a clock wrong?"),
        403 if status.message.contains("admission webhook") => None,
        403 => Some("a permission is missing: `helm upgrade` puts the roles of the chart right"),
        404 if status.details.as_ref().is_none_or(|details| details.name.is_empty()) => {
            Some("this kind is not served: are the custom resource definitions installed?")
        }
        500 if status.message.contains("failed calling webhook") => {
            Some("the API server cannot call a webhook of the controller; tried again")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advice_follows_the_code() {
        for (code, message, name, advice) in [
            (403, "pods is forbidden", "", Some("a permission is missing")),
            (403, "admission webhook \"x\" denied the request", "x", None),
            (404, "page not found", "", Some("definitions installed?")),
            (404, "pods \"x\" not found", "x", None),
            (401, "Unauthorized", "", Some("token")),
            (409, "conflict", "x", None),
        ] {
            let status = serde_json::json!({"code": code, "message": message, "details": {"name": name}});
            let error = kube::Error::Api(Box::new(serde_json::from_value(status).unwrap()));
            let text = Explained(&error).to_string();
            match advice {
                Some(advice) => assert!(text.contains(message) && text.contains(advice), "{text}"),
                None => assert_eq!(text, Chain(&error).to_string()),
            }
        }
    }
}
