//! Label selectors.

use super::{Cause, Value, child, index, list, meta, names, text};

/// Checks a `LabelSelector`.
pub(super) fn check(path: &str, selector: &Value, causes: &mut Vec<Cause>) {
    meta::labels(&child(path, "matchLabels"), selector["matchLabels"].as_object(), causes);
    for (i, expression) in list(&selector["matchExpressions"]) {
        let at = index(&child(path, "matchExpressions"), i);
        let empty = list(&expression["values"]).next().is_none();
        match text(expression, "operator") {
            "In" | "NotIn" if empty => {
                causes.push(Cause::required(
                    child(&at, "values"),
                    "must be specified when `operator` is 'In' or 'NotIn'",
                ));
            }
            "Exists" | "DoesNotExist" if !empty => {
                causes.push(Cause::forbidden(
                    child(&at, "values"),
                    "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                ));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => causes.push(Cause::invalid_text(child(&at, "operator"), other, "not a valid selector operator")),
        }
        let key = text(expression, "key");
        causes.extend(names::qualified_name(key).iter().map(|p| Cause::invalid_text(child(&at, "key"), key, p)));
        for (j, value) in list(&expression["values"]) {
            let value = value.as_str().unwrap_or_default();
            let at = index(&child(&at, "values"), j);
            causes.extend(names::label_value(value).iter().map(|p| Cause::invalid_text(&at, value, p)));
        }
    }
}

/// Whether a selector has no requirement at all.
pub(super) fn is_empty(selector: &Value) -> bool {
    selector["matchLabels"].as_object().is_none_or(serde_json::Map::is_empty)
        && list(&selector["matchExpressions"]).next().is_none()
}

/// Whether a selector selects these labels.
pub(super) fn selects(selector: &Value, labels: &Value) -> bool {
    let equal =
        selector["matchLabels"].as_object().into_iter().flatten().all(|(key, value)| labels[key.as_str()] == *value);
    let expressions = list(&selector["matchExpressions"]).all(|(_, expression)| {
        let label = &labels[text(expression, "key")];
        let listed = list(&expression["values"]).any(|(_, value)| value == label);
        match text(expression, "operator") {
            "In" => listed,
            "NotIn" => !listed,
            "Exists" => !label.is_null(),
            _ => label.is_null(),
        }
    });
    equal && expressions
}
