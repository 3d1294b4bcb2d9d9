//! A request taken apart: path, query, media types.
use std::sync::Arc;

use http::{HeaderMap, Uri, header};
use serde_json::Value;

use crate::kinds::{Catalog, Resource};
use crate::protobuf;
use crate::schema::Cause;
use crate::status::{Failure, Outcome};

/// Media types that answers can have.
pub const ACCEPTED: &[&str] = &["application/json", "application/yaml"];
/// Media types that bodies can have.
const READ: &[&str] = &["application/json", "application/yaml", protobuf::MEDIA_TYPE];

/// Which object or collection a path names.
#[derive(Debug, Clone)]
pub struct Target {
    /// The resource.
    pub resource: Arc<Resource>,
    /// Empty for cluster-scoped resources and for all namespaces.
    pub namespace: String,
    /// `None` for the collection.
    pub name: Option<String>,
    /// Subresource.
    pub sub: Option<String>,
}

impl Target {
    /// Resolves `/api/v1/...` and `/apis/GROUP/VERSION/...`.
    pub fn parse(catalog: &Catalog, path: &str) -> Option<Self> {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let (group, version, rest) = match parts.as_slice() {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return None,
        };
        let text = |s: &&str| Some((*s).to_owned());
        let (namespace, plural, name, sub) = match rest {
            ["namespaces", namespace, plural, rest @ ..]
                if !(group.is_empty() && rest.is_empty() && matches!(*plural, "status" | "finalize")) =>
            {
                match rest {
                    [] => (*namespace, *plural, None, None),
                    [name] => (*namespace, *plural, text(name), None),
                    [name, sub] => (*namespace, *plural, text(name), text(sub)),
                    _ => return None,
                }
            }
            [plural] => ("", *plural, None, None),
            [plural, name] => ("", *plural, text(name), None),
            [plural, name, sub] => ("", *plural, text(name), text(sub)),
            _ => return None,
        };
        let resource = catalog.find(group, version, plural)?.clone();
        let fits = match resource.namespaced {
            true => !namespace.is_empty() || name.is_none(),
            false => namespace.is_empty(),
        };
        fits.then(|| Self { resource, namespace: namespace.to_owned(), name, sub })
    }
}

/// Query parameters.
#[derive(Debug, Clone, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Parses the query of a URI.
    pub fn parse(uri: &Uri) -> Outcome<Self> {
        let parsed = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(uri);
        parsed.map(|q| Self(q.0)).map_err(|e| Failure::bad_request(e.to_string()))
    }

    /// A parameter that is there and not empty.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, v)| k == key && !v.is_empty()).map(|(_, v)| v.as_str())
    }

    /// A boolean; `?watch` and `?watch=1` are true.
    pub fn flag(&self, key: &str) -> Option<bool> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| !matches!(v.to_lowercase().as_str(), "false" | "0" | "f"))
    }

    /// A number; a negative one counts as 0.
    pub fn number(&self, key: &str) -> Outcome<Option<u64>> {
        Ok(self.integer(key)?.map(|number| number.max(0).unsigned_abs()))
    }

    /// A number that may be negative.
    pub fn integer(&self, key: &str) -> Outcome<Option<i64>> {
        let refuse = |text| Failure::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax"));
        self.text(key).map(|text| text.parse().map_err(|_| refuse(text))).transpose()
    }

    /// `dryRun=All`; any other value is refused as one of the `options`, `CreateOptions` and the like.
    pub fn dry_run(&self, options: &str) -> Outcome<bool> {
        match self.text("dryRun") {
            None => Ok(false),
            Some("All") => Ok(true),
            Some(other) => {
                let cause = Cause::not_supported("dryRun", &Value::from(vec![other]), &["All"]);
                Err(Failure::invalid_options(options, &[cause]))
            }
        }
    }
}

/// What an answer looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// The object or list itself.
    Whole,
    /// `meta.k8s.io/v1 Table`.
    Table,
    /// `meta.k8s.io/v1 PartialObjectMetadata` or its list.
    Partial,
    /// `apidiscovery.k8s.io/v2 APIGroupDiscoveryList`.
    Discovery,
}

/// The negotiated form of the answer.
#[derive(Debug, Clone, Copy)]
pub struct Accept {
    /// Its shape.
    pub shape: Shape,
    /// YAML instead of JSON.
    pub yaml: bool,
}

impl Accept {
    /// The first form of the header that can be served.
    pub fn parse(headers: &HeaderMap) -> Outcome<Self> {
        let header = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("*/*");
        header.split(',').find_map(Self::option).ok_or_else(|| Failure::not_acceptable(ACCEPTED))
    }

    fn option(text: &str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let yaml = match parts.next()? {
            "" | "*/*" | "application/*" | "application/json" => false,
            "application/yaml" => true,
            _ => return None,
        };
        let parameters: Vec<_> = parts.filter_map(|p| p.split_once('=')).collect();
        let parameter = |key: &str| parameters.iter().find(|(k, _)| *k == key).map(|(_, v)| *v);
        let shape = match (parameter("as"), parameter("g"), parameter("v")) {
            (None, ..) => Shape::Whole,
            (Some("Table"), Some("meta.k8s.io"), Some("v1")) => Shape::Table,
            (Some("PartialObjectMetadata" | "PartialObjectMetadataList"), Some("meta.k8s.io"), Some("v1")) => {
                Shape::Partial
            }
            (Some("APIGroupDiscoveryList"), Some("apidiscovery.k8s.io"), Some("v2")) => Shape::Discovery,
            _ => return None,
        };
        Some(Self { shape, yaml })
    }
}

/// Everything a handler needs to know about a request.
#[derive(Debug, Clone)]
pub struct Call {
    /// What it is about.
    pub target: Target,
    /// Its parameters.
    pub query: Query,
    /// The answer's form.
    pub accept: Accept,
    /// Media type of the body, without parameters.
    pub content_type: String,
    /// Who asks.
    pub user: String,
}

impl Call {
    /// The resource.
    pub fn resource(&self) -> &Arc<Resource> {
        &self.target.resource
    }

    /// The name in the path, empty for a collection.
    pub fn name(&self) -> &str {
        self.target.name.as_deref().unwrap_or_default()
    }

    /// Key of the named object.
    pub fn key(&self) -> String {
        self.resource().key(&self.target.namespace, self.name())
    }
}

/// Parses a body in JSON, YAML or, for built-in kinds, protobuf.
pub fn decode(content_type: &str, body: &[u8]) -> Outcome<Value> {
    match content_type {
        "" | "application/json" | "*/*" => serde_json::from_slice(body)
            .map_err(|e| Failure::bad_request(format!("couldn't get version/kind; json parse error: {e}"))),
        "application/yaml" | "text/yaml" | "application/x-yaml" => {
            let text = std::str::from_utf8(body)
                .map_err(|e| Failure::bad_request(format!("error converting YAML to JSON: {e}")))?;
            serde_saphyr::from_str(text)
                .map_err(|e| Failure::bad_request(format!("error converting YAML to JSON: {e}")))
        }
        protobuf::MEDIA_TYPE => protobuf::decode(body).map_err(Failure::bad_request),
        _ => Err(Failure::unsupported_media_type(READ)),
    }
}
