//! The instance metadata service of Alibaba Cloud: what a machine may know about itself, by plain HTTP.
//!
//! Who asks is told by the source address alone, which the VPC guarantees to be one of the asking NIC's. Addresses come from
//! the switch at every request, so an address assigned a moment ago is shown at once. Requests are not throttled.

pub mod token;
pub mod tree;

use crate::control::{self, Client};
use crate::vpc::config::Config;
use crate::vpc::fabric::NicView;
use anyhow::{Context, Result};
use axum::Router;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use token::Tokens;

const TOKEN_PATH: &str = "/latest/api/token";
const TTL_HEADER: &str = "x-aliyun-ecs-metadata-token-ttl-seconds";
const TOKEN_HEADER: &str = "x-aliyun-ecs-metadata-token";
/// Versions of the tree that are served, all the same.
const VERSIONS: [&str; 2] = ["/latest/meta-data", "/2016-01-01/meta-data"];

/// The instance option `HttpTokens`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum HttpTokens {
    /// Requests with and without a token are answered
    Optional,
    /// Security hardening: only with a token
    Required,
}

/// `spiderpool-lab metadata`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The cloud's description, the same file that the switch reads
    #[arg(long)]
    pub config: PathBuf,
    /// Where to listen; by default port 80 of both families
    #[arg(long, default_value = "[::]:80")]
    pub listen: SocketAddr,
    /// Whether requests need a token
    #[arg(long, default_value = "optional")]
    pub http_tokens: HttpTokens,
}

/// Serves until SIGTERM or SIGINT.
pub fn run(args: Args) -> Result<()> {
    let config = Config::read(&args.config)?;
    let service = Service {
        switch: Client::new(&config.control),
        config,
        http_tokens: args.http_tokens,
        tokens: Mutex::default(),
        started: Instant::now(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(args.listen)
            .await
            .with_context(|| format!("cannot listen on {}", args.listen))?;
        println!("metadata ready: {}", args.listen);
        let app = Router::new()
            .fallback(handle)
            .with_state(Arc::new(service))
            .into_make_service_with_connect_info::<SocketAddr>();
        let stop = async { drop(control::stopped().await) };
        axum::serve(listener, app).with_graceful_shutdown(stop).await.context("serving metadata")
    })
}

struct Service {
    config: Config,
    switch: Client,
    http_tokens: HttpTokens,
    tokens: Mutex<Tokens>,
    started: Instant,
}

async fn handle(
    State(service): State<Arc<Service>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response {
    let (method, path, headers) =
        (request.method().clone(), request.uri().path().to_owned(), request.headers().clone());
    let answered =
        tokio::task::spawn_blocking(move || service.answer(&method, &path, &headers, peer.ip().to_canonical()));
    answered.await.unwrap_or_else(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response())
}

impl Service {
    fn answer(&self, method: &Method, path: &str, headers: &HeaderMap, source: IpAddr) -> Response {
        let nics: Vec<NicView> = match self.switch.get("/nics") {
            Ok(nics) => nics,
            Err(error) => return (StatusCode::SERVICE_UNAVAILABLE, format!("{error:#}\n")).into_response(),
        };
        let Some(node) = tree::owner(&nics, source).map(|nic| nic.node.clone()) else {
            return (StatusCode::NOT_FOUND, format!("{source} belongs to no instance of this VPC\n")).into_response();
        };
        match *method {
            Method::PUT if path == TOKEN_PATH => self.new_token(headers, &node),
            Method::GET | Method::HEAD => self.read(path, headers, &node, &nics),
            _ => (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "GET, HEAD, PUT")]).into_response(),
        }
    }

    fn new_token(&self, headers: &HeaderMap, node: &str) -> Response {
        let ttl = headers.get(TTL_HEADER).and_then(|value| value.to_str().ok()).and_then(|value| value.parse().ok());
        match ttl.map(Duration::from_secs).filter(|ttl| token::TTL.contains(ttl)) {
            None => {
                (StatusCode::BAD_REQUEST, format!("header {TTL_HEADER} must be 1 to {}\n", token::TTL.end().as_secs()))
                    .into_response()
            }
            Some(ttl) => {
                let text = token::random();
                self.tokens.lock().expect("no holder panics").add(self.started.elapsed(), text.clone(), node, ttl);
                text.into_response()
            }
        }
    }

    fn read(&self, path: &str, headers: &HeaderMap, node: &str, nics: &[NicView]) -> Response {
        let allowed = match headers.get(TOKEN_HEADER) {
            Some(token) => token.to_str().is_ok_and(|token| {
                self.tokens.lock().expect("no holder panics").is_valid(self.started.elapsed(), token, node)
            }),
            None => self.http_tokens == HttpTokens::Optional,
        };
        if !allowed {
            return (StatusCode::UNAUTHORIZED, "no valid token\n").into_response();
        }
        let key = VERSIONS
            .iter()
            .find_map(|version| path.strip_prefix(version))
            .filter(|key| key.is_empty() || key.starts_with('/'));
        let tree = self.config.instance(node).map(|instance| tree::Tree::new(&self.config, instance, nics));
        match key.and_then(|key| tree?.lookup(key.trim_matches('/'))) {
            Some(value) => ([(header::CONTENT_TYPE, "text/plain")], value).into_response(),
            None => (StatusCode::NOT_FOUND, format!("{path}: not found\n")).into_response(),
        }
    }
}
