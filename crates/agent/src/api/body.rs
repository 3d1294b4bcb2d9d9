//! Reads bodies and queries as upstream's framework does: 400 for what is no JSON of the type, 422 for what is missing.

use super::{Refusal, framework};
use axum::body::to_bytes;
use axum::extract::Request;
use axum::http::StatusCode;
use serde_json::Value;

/// No request is larger; the pools of a CNI configuration are its only lists.
const MAX_BODY: usize = 1 << 20;

/// Code of upstream's framework for something required.
const REQUIRED: i64 = 602;

/// The body as a request.
pub async fn read<T: wire::agent::Request>(request: Request) -> Result<T, Refusal> {
    let bytes = to_bytes(request.into_body(), MAX_BODY).await.map_err(|error| {
        Refusal::from(framework(
            StatusCode::PAYLOAD_TOO_LARGE,
            413,
            format!("{} body: {error} (at most {MAX_BODY} bytes)", T::NAME),
        ))
    })?;
    parse(&bytes).map_err(|(status, code, message)| framework(status, code, message).into())
}

fn parse<T: wire::agent::Request>(bytes: &[u8]) -> Result<T, (StatusCode, i64, String)> {
    let missing = |what: &str| (StatusCode::UNPROCESSABLE_ENTITY, REQUIRED, format!("{what} in body is required"));
    let malformed = |error: serde_json::Error| {
        (StatusCode::BAD_REQUEST, 400, format!("parsing {} body from \"\" failed, because {error}", T::NAME))
    };
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(missing(T::NAME));
    }
    let value: Value = serde_json::from_slice(bytes).map_err(malformed)?;
    let members = match value {
        Value::Object(members) => members,
        Value::Null => return Err(missing(T::NAME)),
        other => return Err(malformed(serde::de::Error::invalid_type(unexpected(&other), &"an object"))),
    };
    if let Some(member) = T::REQUIRED.iter().find(|member| members.get(**member).is_none_or(Value::is_null)) {
        return Err(missing(member));
    }
    serde_json::from_value(Value::Object(members)).map_err(malformed)
}

fn unexpected(value: &Value) -> serde::de::Unexpected<'_> {
    match value {
        Value::Bool(flag) => serde::de::Unexpected::Bool(*flag),
        Value::String(text) => serde::de::Unexpected::Str(text),
        Value::Array(_) => serde::de::Unexpected::Seq,
        _ => serde::de::Unexpected::Other("number"),
    }
}

/// A parameter of a query; the first counts. Empty is there, absent is `None`.
pub fn query(query: &str, name: &str) -> Option<String> {
    let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.map(|(key, value)| (unescape(key), unescape(value))).find(|(key, _)| key == name).map(|(_, value)| value)
}

fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let code = tail
            .get(..2)
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        (rest, _) = match (first, code) {
            (b'%', Some(code)) => (&tail[2..], bytes.push(code)),
            (b'+', _) => (tail, bytes.push(b' ')),
            (other, _) => (tail, bytes.push(*other)),
        };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::agent::{AddArgs, ReleaseArgs};

    const GOOD: &str =
        r#"{"containerID":"c","ifName":"eth0","netNamespace":"n","podName":"p","podNamespace":"s","podUID":""}"#;

    #[test]
    fn a_good_body_is_read_and_unknown_members_are_ignored() {
        assert_eq!(parse::<AddArgs>(GOOD.as_bytes()).unwrap().pod_name, "p");
        let more = GOOD.replacen('{', r#"{"x":[1],"cleanGateway":null,"#, 1);
        assert!(!parse::<AddArgs>(more.as_bytes()).unwrap().clean_gateway);
    }

    #[test]
    fn bad_bodies_are_told_apart() {
        let rows = [
            (String::new(), 422, 602, "ipam-add-args in body is required"),
            ("null".to_owned(), 422, 602, "ipam-add-args in body is required"),
            ("{".to_owned(), 400, 400, "parsing ipam-add-args body from \"\" failed, because EOF"),
            (format!("{GOOD}x"), 400, 400, "parsing ipam-add-args body from \"\" failed, because trailing characters"),
            ("[]".to_owned(), 400, 400, "parsing ipam-add-args body from \"\" failed, because invalid type: sequence"),
            ("{}".to_owned(), 422, 602, "containerID in body is required"),
            (GOOD.replace(r#""p""#, "null"), 422, 602, "podName in body is required"),
            (
                GOOD.replace(r#""p""#, "7"),
                400,
                400,
                "parsing ipam-add-args body from \"\" failed, because invalid type: int",
            ),
            (GOOD.replacen('{', r#"{"defaultIPv4IPPool":"p","#, 1), 400, 400, "parsing ipam-add-args body"),
        ];
        for (text, status, code, message) in rows {
            let error = parse::<AddArgs>(text.as_bytes()).unwrap_err();
            assert_eq!((error.0.as_u16(), error.1), (status, code), "{text}");
            assert!(error.2.starts_with(message), "{text}: {}", error.2);
        }
        assert!(parse::<ReleaseArgs>(GOOD.replace("netNamespace", "x").as_bytes()).is_ok(), "DEL needs no namespace");
    }

    #[test]
    fn queries_are_unescaped() {
        assert_eq!(query("podName=a%2Db+c&podNamespace=&x", "podName").as_deref(), Some("a-b c"));
        assert_eq!(query("podName=a&podNamespace=", "podNamespace").as_deref(), Some(""));
        assert_eq!(query("podName=a%zz", "podName").as_deref(), Some("a%zz"));
        assert_eq!(query("", "podName"), None);
    }
}
