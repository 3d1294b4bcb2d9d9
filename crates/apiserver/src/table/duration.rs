//! Ages as Kubernetes prints them (apimachinery `duration.HumanDuration`).

use jiff::Timestamp;
use serde_json::Value;

/// How long ago `then` was.
pub(crate) fn since(now: Timestamp, then: Timestamp) -> String {
    human(now.as_nanosecond() - then.as_nanosecond())
}

/// How long ago a timestamp field was; `<unknown>` when it is not set.
pub(crate) fn age(value: &Value, now: Timestamp) -> String {
    match value.as_str().and_then(|text| text.parse().ok()) {
        Some(then) => since(now, then),
        None => "<unknown>".to_owned(),
    }
}

/// The age of an object.
pub(crate) fn object_age(object: &Value, now: Timestamp) -> Value {
    age(&object["metadata"]["creationTimestamp"], now).into()
}

/// At most two units, the second only while it matters.
pub(crate) fn human(nanoseconds: i128) -> String {
    let seconds = nanoseconds / 1_000_000_000;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let pair = |big: i128, unit: &str, small: i128, small_unit: &str| match small {
        0 => format!("{big}{unit}"),
        _ => format!("{big}{unit}{small}{small_unit}"),
    };
    match () {
        () if seconds < -1 => "<invalid>".to_owned(),
        () if seconds < 0 => "0s".to_owned(),
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => pair(minutes, "m", seconds % 60, "s"),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => pair(hours, "h", minutes % 60, "m"),
        () if hours < 48 => format!("{hours}h"),
        () if hours < 24 * 8 => pair(days, "d", hours % 24, "h"),
        () if hours < 24 * 365 * 2 => format!("{days}d"),
        () if hours < 24 * 365 * 8 => pair(days / 365, "y", days % 365, "d"),
        () => format!("{}y", days / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_at_most_two_units() {
        const S: i128 = 1_000_000_000;
        for (seconds, text) in [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (600, "10m"),
            (10_799, "179m"),
            (10_800, "3h"),
            (11_100, "3h5m"),
            (28_800, "8h"),
            (172_799, "47h"),
            (172_800, "2d"),
            (176_400, "2d1h"),
            (691_200, "8d"),
            (63_072_000, "2y"),
            (63_158_400, "2y1d"),
            (252_288_000, "8y"),
        ] {
            assert_eq!(human(seconds * S), text, "{seconds}");
        }
    }
}
