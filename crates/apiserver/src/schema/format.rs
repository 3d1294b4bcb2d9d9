//! `format` of string fields, as kube-apiserver's registry checks it.
//!
//! Formats that the registry does not know are ignored, as are known ones on another type.

use regex::Regex;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

/// Whether a schema of these types is checked for `format` at all.
pub(crate) fn applies(types: &[&str], format: &str) -> bool {
    match types {
        [] | ["string"] => STRING_FORMATS.contains(&normalized(format).as_str()),
        ["integer"] => matches!(format, "int32" | "int64"),
        ["number"] => matches!(format, "float" | "double"),
        _ => false,
    }
}

const STRING_FORMATS: [&str; 25] = [
    "bsonobjectid",
    "uri",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "cidr",
    "mac",
    "uuid",
    "uuid3",
    "uuid4",
    "uuid5",
    "isbn",
    "isbn10",
    "isbn13",
    "creditcard",
    "ssn",
    "hexcolor",
    "rgbcolor",
    "byte",
    "password",
    "date",
    "duration",
    "datetime",
    "k8sshortname",
];

/// `date-time` and `datetime` are one format.
pub(crate) fn normalized(format: &str) -> String {
    format.replace('-', "")
}

macro_rules! regexes {
    ($($name:ident = $pattern:literal;)*) => {
        $(static $name: LazyLock<Regex> = LazyLock::new(|| Regex::new($pattern).expect("a literal pattern"));)*
    };
}

regexes! {
    BSON = r"^[0-9a-fA-F]{24}$";
    HOSTNAME = r"^([a-zA-Z0-9\p{S}\p{L}]((-?[a-zA-Z0-9\p{S}\p{L}]{0,62})?)|([a-zA-Z0-9\p{S}\p{L}](([a-zA-Z0-9-\p{S}\p{L}]{0,61}[a-zA-Z0-9\p{S}\p{L}])?)(\.)){1,}([a-zA-Z\p{L}]){2,63})$";
    UUID = r"(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}$";
    UUID3 = r"(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?3[0-9a-f]{3}-?[0-9a-f]{4}-?[0-9a-f]{12}$";
    UUID4 = r"(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?4[0-9a-f]{3}-?[89ab][0-9a-f]{3}-?[0-9a-f]{12}$";
    UUID5 = r"(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?5[0-9a-f]{3}-?[89ab][0-9a-f]{3}-?[0-9a-f]{12}$";
    SSN = r"^\d{3}[- ]?\d{2}[- ]?\d{4}$";
    HEX_COLOR = r"^#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$";
    RGB_COLOR = r"^rgb\(\s*(0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*,\s*(0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*,\s*(0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*\)$";
    BASE64 = r"^(?:[A-Za-z0-9+\\/]{4})*(?:[A-Za-z0-9+\\/]{2}==|[A-Za-z0-9+\\/]{3}=|[A-Za-z0-9+\\/]{4})$";
    EMAIL = r"^(?:[^<>]*<)?[^\s<>@,;:]+@[^\s<>@,;:]+>?$";
    MAC = r"^(?:(?:[0-9a-fA-F]{2}([:-]))(?:[0-9a-fA-F]{2}[:-]){4,18}[0-9a-fA-F]{2}|(?:[0-9a-fA-F]{4}\.){2,9}[0-9a-fA-F]{4})$";
    GO_DURATION = r"^[+-]?(?:0|(?:(?:\d+\.?\d*|\.\d+)(?:ns|us|µs|μs|ms|s|m|h))+)$";
    WORD_DURATION = r"^(?:\d+)\s*(?i:ns|nanos?|nanoseconds?|us|µs|micros?|microseconds?|ms|millis?|milliseconds?|s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?|w|wks?|weeks?)$";
    URI = r"^(?:[a-zA-Z][a-zA-Z0-9+.-]*:[^\s]*|/[^\s]*)$";
    SHORT_NAME = r"^[a-z0-9](?:[-a-z0-9]*[a-z0-9])?$";
}

/// Whether `text` has the (known) format.
pub(crate) fn matches(format: &str, text: &str) -> bool {
    match normalized(format).as_str() {
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => is_cidr(text),
        "mac" => is_mac(text),
        "uuid" => UUID.is_match(text),
        "uuid3" => UUID3.is_match(text),
        "uuid4" => UUID4.is_match(text),
        "uuid5" => UUID5.is_match(text),
        "date" => jiff::civil::Date::strptime("%Y-%m-%d", text).is_ok() && text.len() == 10,
        "datetime" => is_datetime(text),
        "duration" => GO_DURATION.is_match(text) || WORD_DURATION.is_match(text),
        "hostname" => HOSTNAME.is_match(text) && text.len() <= 255 && text.split('.').all(|label| label.len() <= 63),
        "uri" => URI.is_match(text),
        "email" => EMAIL.is_match(text),
        "byte" => BASE64.is_match(text),
        "hexcolor" => HEX_COLOR.is_match(text),
        "rgbcolor" => RGB_COLOR.is_match(text),
        "ssn" => SSN.is_match(text),
        "bsonobjectid" => BSON.is_match(text),
        "creditcard" => is_card(text),
        "isbn10" => is_isbn10(text),
        "isbn13" => is_isbn13(text),
        "isbn" => is_isbn10(text) || is_isbn13(text),
        "k8sshortname" => text.len() <= 63 && SHORT_NAME.is_match(text),
        _ => true, // password: any text
    }
}

/// Go's `net.ParseCIDR`: an address, a slash and a length without leading zeros.
fn is_cidr(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else { return false };
    let plain =
        !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit()) && (length == "0" || !length.starts_with('0'));
    let Some(bits) = plain.then(|| length.parse::<u32>().ok()).flatten() else { return false };
    match address.parse() {
        Ok(std::net::IpAddr::V4(_)) => bits <= 32,
        Ok(std::net::IpAddr::V6(_)) => bits <= 128,
        Err(_) => false,
    }
}

/// Go's `net.ParseMAC`: 6, 8 or 20 octets with one kind of separator.
fn is_mac(text: &str) -> bool {
    let octets = text.bytes().filter(u8::is_ascii_hexdigit).count() / 2;
    MAC.is_match(text) && matches!(octets, 6 | 8 | 20) && !(text.contains(':') && text.contains('-'))
}

/// RFC 3339 with a time zone, seconds optional fraction; a space may stand for the T.
pub(crate) fn is_datetime(text: &str) -> bool {
    text.len() >= 20 && text.as_bytes().get(4) == Some(&b'-') && text.parse::<jiff::Timestamp>().is_ok()
}

fn digits(text: &str) -> Vec<u32> {
    text.chars().filter_map(|c| c.to_digit(10)).collect()
}

fn is_card(text: &str) -> bool {
    let digits = digits(text);
    let sum: u32 =
        digits.iter().rev().enumerate().map(|(i, d)| if i % 2 == 1 { d * 2 / 10 + d * 2 % 10 } else { *d }).sum();
    (13..=16).contains(&digits.len()) && sum.is_multiple_of(10)
}

fn is_isbn10(text: &str) -> bool {
    let compact: Vec<char> = text.chars().filter(|c| !matches!(c, '-' | ' ')).collect();
    let value = |(i, c): (usize, &char)| if i == 9 && *c == 'X' { Some(10) } else { c.to_digit(10) };
    let Some(values) = compact.iter().enumerate().map(value).collect::<Option<Vec<u32>>>() else { return false };
    values.len() == 10 && values.iter().zip(1u32..).map(|(v, i)| v * i).sum::<u32>().is_multiple_of(11)
}

fn is_isbn13(text: &str) -> bool {
    let compact: String = text.chars().filter(|c| !matches!(c, '-' | ' ')).collect();
    let values = digits(&compact);
    let sum: u32 = values.iter().enumerate().map(|(i, v)| if i % 2 == 1 { v * 3 } else { *v }).sum();
    compact.len() == 13 && values.len() == 13 && sum.is_multiple_of(10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_accept_and_refuse_what_the_go_registry_does() {
        let rows = [
            ("ipv4", "10.0.0.1", true),
            ("ipv4", "10.0.0.01", false),
            ("ipv4", "::1", false),
            ("ipv6", "fd00::1", true),
            ("ipv6", "10.0.0.1", false),
            ("cidr", "10.0.0.0/8", true),
            ("cidr", "10.0.0.0/33", false),
            ("cidr", "10.0.0.0", false),
            ("mac", "aa:bb:cc:dd:ee:ff", true),
            ("mac", "aa:bb:cc", false),
            ("uuid", "0d9f7a5e-0000-4000-8000-000000000001", true),
            ("uuid", "x", false),
            ("date", "2026-01-31", true),
            ("date", "2026-02-31", false),
            ("date-time", "2026-01-31T10:00:00Z", true),
            ("date-time", "2026-01-31T10:00:00.123+01:00", true),
            ("date-time", "2026-01-31", false),
            ("duration", "1h30m", true),
            ("duration", "22 ns", true),
            ("duration", "soon", false),
            ("byte", "aGk=", true),
            ("byte", "aGk", false),
            ("isbn13", "978-0321751041", true),
            ("hostname", "a.example.org", true),
            ("uri", "https://x/y", true),
            ("uri", "x y", false),
        ];
        for (format, text, good) in rows {
            assert_eq!(matches(format, text), good, "{format} {text}");
        }
    }
}
