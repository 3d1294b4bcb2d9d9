//! The `/scale` subresource: the replica count of a workload as `autoscaling/v1 Scale`.
use axum::response::Response;
use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::kinds::{Resource, Scale};
use crate::meta;
use crate::patch::Patch;
use crate::render;
use crate::request::{Call, decode};
use crate::server::{Server, no_subresource};
use crate::status::{Failure, Outcome};
use crate::write::Writing;

fn at<'a>(value: &'a Value, path: &str) -> &'a Value {
    path.split('.').fold(value, |value, part| &value[part])
}

fn set(value: &mut Value, path: &str, new: Value) {
    *path.split('.').fold(value, |value, part| &mut value[part]) = new;
}

/// The Scale of an object.
fn view(scale: &Scale, object: &Value) -> Value {
    let kept = ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"];
    let metadata = kept.iter().filter_map(|k| Some(((*k).to_owned(), object["metadata"].get(*k)?.clone())));
    let mut status = json!({"replicas": at(object, &scale.status).as_i64().unwrap_or(0)});
    match scale.selector.as_ref().map(|path| at(object, path)) {
        Some(Value::String(text)) => status["selector"] = text.as_str().into(),
        Some(selector @ Value::Object(_)) => status["selector"] = selector_text(selector).into(),
        _ => {}
    }
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata.collect::<serde_json::Map<_, _>>(),
        "spec": {"replicas": at(object, &scale.spec).as_i64().unwrap_or(0)}, "status": status,
    })
}

/// A LabelSelector in the form of a query.
fn selector_text(selector: &Value) -> String {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let equal = selector["matchLabels"].as_object().into_iter().flatten().map(|(k, v)| format!("{k}={}", text(v)));
    let expressions = selector["matchExpressions"].as_array().into_iter().flatten().map(|e| {
        let (key, values) =
            (text(&e["key"]), e["values"].as_array().into_iter().flatten().map(text).collect::<Vec<_>>());
        match e["operator"].as_str() {
            Some("In") => format!("{key} in ({})", values.join(",")),
            Some("NotIn") => format!("{key} notin ({})", values.join(",")),
            Some("Exists") => key,
            _ => format!("!{key}"),
        }
    });
    equal.chain(expressions).collect::<Vec<_>>().join(",")
}

/// GET, PUT and PATCH.
pub async fn serve(
    server: &Server,
    call: &Call,
    method: &Method,
    body: &Bytes,
    warnings: &mut Vec<String>,
) -> Outcome<Response> {
    let resource: &Resource = call.resource();
    let scale = resource.scale.as_ref().ok_or_else(|| no_subresource(call))?;
    let patch = match *method {
        Method::GET => {
            let object = server.store().get(&resource.store, &call.key());
            let object = object.ok_or_else(|| Failure::not_found(resource, call.name()))?;
            return Ok(render::encode(
                call.accept.yaml,
                StatusCode::OK,
                &view(scale, &render::value_of(resource, &object)),
            ));
        }
        Method::PATCH => Some(Patch::parse(&call.content_type, body, resource)?),
        Method::PUT => None,
        _ => return Err(Failure::method_not_allowed()),
    };
    let whole = if patch.is_none() { decode(&call.content_type, body)? } else { Value::Null };
    let mut writing = Writing::new(server, call, "UpdateOptions", warnings)?;
    let change = |current: &Value| {
        let wanted = match &patch {
            Some(patch) => patch.apply(resource, &view(scale, current))?,
            None => whole.clone(),
        };
        let replicas = wanted["spec"]["replicas"].as_i64().unwrap_or(0);
        if replicas < 0 {
            let cause =
                crate::schema::Cause::invalid("spec.replicas", &replicas.into(), "must be greater than or equal to 0");
            return Err(Failure::invalid(resource, call.name(), &[cause]));
        }
        let mut object = current.clone();
        let (version, uid) = (meta::text(&wanted, "resourceVersion"), meta::text(&wanted, "uid"));
        for (key, value) in [("resourceVersion", version), ("uid", uid)] {
            if !value.is_empty() {
                object["metadata"][key] = value.into();
            }
        }
        set(&mut object, &scale.spec, replicas.into());
        Ok(object)
    };
    let object = writing.change(change).await?;
    Ok(render::encode(call.accept.yaml, StatusCode::OK, &view(scale, &render::value_of(resource, &object))))
}
