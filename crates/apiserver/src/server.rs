//! The server: state, routing, what every request passes through.
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard, mpsc};
use tokio_util::sync::CancellationToken;

use crate::admission::{self, Hooks};
use crate::kinds::{Catalog, Resource, builtin_selectable};
use crate::request::{Accept, Call, Query, Shape, Target};
use crate::service::{Held, Ranges};
use crate::status::{Failure, Outcome};
use crate::storage::{self, DEFINITIONS, Expect, Store, Write};
use crate::write::{self, Reply, Writing};
use crate::{collect, crd, delete, discovery, list, meta, render, scale, service, watch};

/// Largest request body, as kube-apiserver's.
const BODY_LIMIT: usize = 3 << 20;
const NAMESPACES: [&str; 4] = ["default", "kube-node-lease", "kube-public", "kube-system"];
const ENDPOINTS_WARNING: &str = "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice";

/// How a server is set up.
#[derive(Debug, Clone)]
pub struct Options {
    /// Directory of the database and certificates; without one nothing is kept.
    pub data_dir: Option<PathBuf>,
    /// Where Services get their addresses, one range per family, the first is the primary one.
    pub service_ranges: Vec<String>,
    /// Where Services get their node ports, inclusive.
    pub node_ports: (u16, u16),
    /// Events kept per resource.
    pub history: usize,
    /// How long Events are kept after their last write; zero keeps them for ever.
    pub event_ttl: Duration,
    /// `host:port` at which clients reach the server.
    pub advertise: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            data_dir: None,
            service_ranges: vec!["10.96.0.0/12".into()],
            node_ports: (30000, 32767),
            history: storage::HISTORY,
            event_ttl: Duration::from_secs(60 * 60),
            advertise: "127.0.0.1:6443".into(),
        }
    }
}

/// Why a server does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The data directory cannot be used.
    #[error("data directory {path}")]
    Directory {
        /// It.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The database cannot be used.
    #[error("database {path}")]
    Database {
        /// Its file.
        path: PathBuf,
        /// Why.
        source: Box<redb::Error>,
    },
    /// A setting is wrong.
    #[error("{0}")]
    Setting(String),
    /// A first object cannot be written.
    #[error("namespace {name} cannot be created: {why}")]
    Namespace {
        /// Its name.
        name: String,
        /// Why.
        why: String,
    },
}

/// The API server; clones share one state.
#[derive(Debug, Clone)]
pub struct Server {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Store,
    catalog: RwLock<Arc<Catalog>>,
    options: Options,
    ranges: Ranges,
    rebuilding: std::sync::Mutex<()>,
    hooks: RwLock<Option<Arc<Hooks>>>,
    /// Held while a Service or a definition is written: both are checked against all others.
    serial: Mutex<()>,
    stop: CancellationToken,
}

impl Server {
    /// Opens the data directory, or an empty server in memory. Must be called within a tokio runtime.
    pub async fn open(options: Options) -> Result<Self, OpenError> {
        let ranges = Ranges::new(&options.service_ranges, options.node_ports).map_err(OpenError::Setting)?;
        let path = options.data_dir.as_ref().map(|dir| dir.join("state.redb"));
        if let Some(dir) = &options.data_dir {
            std::fs::create_dir_all(dir).map_err(|source| OpenError::Directory { path: dir.clone(), source })?;
        }
        let (follow, events) = mpsc::unbounded_channel();
        let store = Store::open(path.as_deref(), builtin_selectable, options.history, follow)
            .map_err(|source| OpenError::Database { path: path.unwrap_or_default(), source: Box::new(source) })?;
        let stop = CancellationToken::new();
        let inner = Inner {
            store,
            catalog: RwLock::default(),
            options,
            ranges,
            rebuilding: Default::default(),
            hooks: RwLock::default(),
            serial: Mutex::new(()),
            stop: stop.clone(),
        };
        let server = Self { inner: Arc::new(inner) };
        server.rebuild();
        for name in NAMESPACES {
            server.ensure_namespace(name).await?;
        }
        tokio::spawn(collect::run(server.clone(), events, stop));
        Ok(server)
    }

    async fn ensure_namespace(&self, name: &str) -> Result<(), OpenError> {
        if self.store().get("/namespaces", name).is_some() {
            return Ok(());
        }
        let resource = self.catalog().find("", "v1", "namespaces").expect("namespaces are built in").clone();
        let mut value = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        meta::fill(&mut value, "");
        crate::strategy::prepare_create(&resource, &mut value);
        let store = resource.store.clone();
        let write = Write {
            store,
            key: name.into(),
            expect: Expect::Absent,
            value,
            remove: false,
            namespace: None,
            definition: None,
        };
        let failed = |why| OpenError::Namespace { name: name.to_owned(), why: format!("{why:?}") };
        self.store().write(write).await.map(|_| ()).map_err(failed)
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// How it was set up.
    pub fn options(&self) -> &Options {
        &self.inner.options
    }

    /// What is served now.
    pub fn catalog(&self) -> Arc<Catalog> {
        self.inner.catalog.read().expect("nothing panics while it holds the catalog").clone()
    }

    /// The cluster address of the Service `kubernetes`.
    pub fn first_cluster_ip(&self) -> String {
        self.inner.ranges.first().to_string()
    }

    /// Ends when the server is asked to stop.
    pub fn stopping(&self) -> CancellationToken {
        self.inner.stop.clone()
    }

    /// Makes the catalog anew from the stored definitions.
    pub fn rebuild(&self) {
        let _one = self.inner.rebuilding.lock().expect("nothing panics while it rebuilds"); // or an older catalog could win
        let definitions: Vec<_> = self.store().all(DEFINITIONS).iter().map(|o| o.value()).collect();
        let catalog = Catalog::new(&definitions);
        for resource in catalog.all() {
            self.store().set_selectable(&resource.store, resource.selectable.clone());
        }
        *self.inner.catalog.write().expect("nothing panics while it holds the catalog") = Arc::new(catalog);
    }

    /// Called after every write: definitions change what is served, configurations who is asked.
    pub fn noticed(&self, store: &str) {
        match store {
            DEFINITIONS => self.rebuild(),
            admission::MUTATING | admission::VALIDATING => {
                *self.inner.hooks.write().expect("nothing panics while it holds the hooks") = None;
            }
            _ => {}
        }
    }

    /// The webhooks that are configured now.
    pub fn hooks(&self) -> Arc<Hooks> {
        if let Some(hooks) = &*self.inner.hooks.read().expect("nothing panics while it holds the hooks") {
            return hooks.clone();
        }
        // Loaded under the lock: a configuration written meanwhile empties the cache again afterwards.
        let mut cache = self.inner.hooks.write().expect("nothing panics while it holds the hooks");
        cache.insert(Arc::new(Hooks::load(self))).clone()
    }

    /// Writes of kinds that are checked against all others of the kind go one after another.
    pub async fn serial(&self, resource: &Resource) -> Option<MutexGuard<'_, ()>> {
        match &*resource.store {
            "/services" | DEFINITIONS => Some(self.inner.serial.lock().await),
            _ => None,
        }
    }

    /// What a kind needs that depends on other objects: addresses of Services, names of definitions.
    pub fn prepare(&self, resource: &Resource, new: &mut Value, old: Option<&Value>) -> Outcome<()> {
        match &*resource.store {
            DEFINITIONS => crd::prepare(&self.catalog(), new, old),
            "/services" => {
                let uid = meta::text(new, "uid");
                let others: Vec<_> =
                    self.store().all("/services").iter().filter(|s| s.uid != uid).map(|s| s.value()).collect();
                let held = Held::by(others.iter());
                let name = meta::text(new, "name").to_owned();
                let allocated = service::allocate(&self.inner.ranges, &held, new, old)?;
                allocated.map_err(|causes| Failure::invalid(resource, &name, &causes))?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Ends watches and background work and closes the file, so that it can be opened again.
    pub async fn close(&self) {
        self.inner.stop.cancel();
        self.store().close().await;
    }

    /// The API as a tower service, for use in process; requests are trusted.
    pub fn router(&self) -> Router {
        Router::new().fallback(entry).with_state(self.clone())
    }
}

/// Who made a request, set by the listener.
#[derive(Debug, Clone)]
pub struct User(pub String);

async fn entry(State(server): State<Server>, request: Request<Body>) -> Response {
    route(&server, request).await.unwrap_or_else(|failure| failure.into_response())
}

async fn route(server: &Server, request: Request<Body>) -> Outcome<Response> {
    let path = request.uri().path().to_owned();
    match path.as_str() {
        "/healthz" | "/livez" | "/readyz" => return Ok(health(server, &path[1..])),
        "/version" | "/version/" => return Ok(render::encode(false, StatusCode::OK, &discovery::version())),
        _ => {}
    }
    let catalog = server.catalog();
    let Some(target) = Target::parse(&catalog, &path) else {
        return match describe(server, &catalog, &path, &request)? {
            Some(response) if matches!(*request.method(), Method::GET | Method::HEAD) => Ok(response),
            Some(_) => Err(Failure::method_not_allowed()),
            None if in_builtin_group(&catalog, &path) => Err(Failure::no_such_path()),
            None => Ok(render::text(StatusCode::NOT_FOUND, "404 page not found\n")),
        };
    };
    let user = request.extensions().get::<User>().map_or_else(|| "system:admin".to_owned(), |u| u.0.clone());
    let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let content_type = content_type.split(';').next().unwrap_or_default().trim().to_owned();
    let call = Call {
        target,
        query: Query::parse(request.uri())?,
        accept: Accept::parse(request.headers())?,
        content_type,
        user,
    };
    let method = request.method().clone();
    let body = match method {
        Method::GET | Method::HEAD => Bytes::new(),
        _ => body(request).await?,
    };
    let deprecated = call.resource().is("/endpoints").then_some(ENDPOINTS_WARNING);
    let mut warnings = Vec::new();
    let done = dispatch(server, call, &method, &body, &mut warnings).await;
    let mut response = done.unwrap_or_else(|failure| failure.into_response());
    warn(&mut response, deprecated.map(str::to_owned).into_iter().chain(warnings));
    Ok(response)
}

/// Well as long as writes reach the disk; worded as kube-apiserver words its checks.
fn health(server: &Server, check: &str) -> Response {
    match server.store().trouble() {
        None => render::text(StatusCode::OK, "ok"),
        Some(why) => {
            let text = format!("[+]ping ok\n[-]storage failed: {why}\n{check} check failed\n");
            render::text(StatusCode::INTERNAL_SERVER_ERROR, text)
        }
    }
}

/// Whether a path lies in the core group or another built-in one; who asks for what is not there gets a Status.
fn in_builtin_group(catalog: &Catalog, path: &str) -> bool {
    match path.trim_matches('/').split('/').collect::<Vec<_>>().as_slice() {
        ["api", ..] => true,
        ["apis", group, _, ..] => catalog.all().any(|r| r.builtin && r.group == *group),
        _ => false,
    }
}

async fn body(request: Request<Body>) -> Outcome<Bytes> {
    let limited = Limited::new(request.into_body(), BODY_LIMIT);
    match limited.collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            Err(Failure::too_large(&format!("limit is {BODY_LIMIT}")))
        }
        Err(error) => Err(Failure::bad_request(error.to_string())),
    }
}

/// Carries a request out. `warnings` are for its client whatever becomes of it.
async fn dispatch(
    server: &Server,
    call: Call,
    method: &Method,
    body: &Bytes,
    warnings: &mut Vec<String>,
) -> Outcome<Response> {
    let store = server.store();
    let sub = call.target.sub.clone();
    let get = matches!(*method, Method::GET | Method::HEAD);
    match (method, call.target.name.is_some(), sub.as_deref()) {
        _ if get && sub.is_none() && call.query.flag("watch") == Some(true) && call.target.name.is_none() => {
            watch::watch(store, call, server.stopping())
        }
        (_, true, None) if get => list::get(store, &call),
        (_, true, Some("status")) if get && call.resource().status => list::get(store, &call),
        (_, false, None) if get => list::list(store, &call),
        (_, true, Some("scale")) => scale::serve(server, &call, method, body, warnings).await,
        (&Method::POST, false, None) => {
            respond(&call, Writing::new(server, &call, "CreateOptions", warnings)?.create(body).await?)
        }
        (&Method::POST, true, Some("binding")) if call.resource().is("/pods") => {
            let status = write::bind(server, &call, body, warnings).await?;
            Ok(render::encode(false, StatusCode::CREATED, &status))
        }
        (&Method::PUT, true, _) if writable(&call) => {
            respond(&call, Writing::new(server, &call, "UpdateOptions", warnings)?.update(body).await?)
        }
        (&Method::PATCH, true, _) if writable(&call) => {
            respond(&call, Writing::new(server, &call, "PatchOptions", warnings)?.patch(body).await?)
        }
        (&Method::DELETE, true, None) => delete::delete(server, &call, body, warnings).await,
        (&Method::DELETE, false, None) => delete::delete_collection(server, &call, body).await,
        (_, _, Some(sub)) if !discovery::has_subresource(call.resource(), sub) => Err(no_subresource(&call)),
        _ => Err(Failure::method_not_allowed()),
    }
}

fn writable(call: &Call) -> bool {
    match call.target.sub.as_deref() {
        None => true,
        Some("status") => call.resource().status,
        Some(_) => false,
    }
}

/// A subresource that a kind does not have: of a custom resource, kube-apiserver says that the object is not found.
pub fn no_subresource(call: &Call) -> Failure {
    match call.resource().builtin {
        true => Failure::no_such_path(),
        false => Failure::not_found(call.resource(), call.name()),
    }
}

fn respond(call: &Call, reply: Reply) -> Outcome<Response> {
    render::object(call, reply.code, &reply.object)
}

/// Adds `Warning` headers, each text once.
fn warn(response: &mut Response, warnings: impl IntoIterator<Item = String>) {
    let mut told = BTreeSet::new();
    for warning in warnings {
        let text = format!("299 - {}", Value::from(warning));
        if let Ok(value) = HeaderValue::from_str(&text)
            && told.insert(text)
        {
            response.headers_mut().append(header::WARNING, value);
        }
    }
}

/// Paths that say what there is.
fn describe(server: &Server, catalog: &Catalog, path: &str, request: &Request<Body>) -> Outcome<Option<Response>> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let aggregated = || Ok::<_, Failure>(Accept::parse(request.headers())?.shape == Shape::Discovery);
    let address = &server.options().advertise;
    let value = match parts.as_slice() {
        ["api"] if aggregated()? => return Ok(Some(aggregate(catalog, true))),
        ["apis"] if aggregated()? => return Ok(Some(aggregate(catalog, false))),
        ["api"] => Some(discovery::core_versions(address)),
        ["apis"] => Some(discovery::group_list(catalog)),
        ["api", version] => discovery::resource_list(catalog, "", version),
        ["apis", group] => discovery::group(catalog, group),
        ["apis", group, version] => discovery::resource_list(catalog, group, version),
        ["openapi", "v3"] => Some(discovery::openapi_index(catalog)),
        ["openapi", "v3", "api", version] => discovery::openapi_document(catalog, "", version),
        ["openapi", "v3", "apis", group, version] => discovery::openapi_document(catalog, group, version),
        _ => None,
    };
    Ok(value.map(|v| render::encode(false, StatusCode::OK, &v)))
}

fn aggregate(catalog: &Catalog, core: bool) -> Response {
    let content_type = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    render::with_type(StatusCode::OK, Body::from(render::to_json(&discovery::aggregated(catalog, core))), content_type)
}
