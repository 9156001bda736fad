//! The client: from a kubeconfig or the pod's own service account, with credentials that may change on disk.

use super::failure::Failure;
use crate::control::datastore::OpenError;
use futures::AsyncBufRead;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a connection may take to come about, and an answer that is not streamed.
const CONNECT: Duration = Duration::from_secs(5);
const ANSWER: Duration = Duration::from_secs(30);
/// Credentials on disk are compared with those in use this often, and whenever the server refuses them.
const CREDENTIALS: Duration = Duration::from_secs(10);

/// Where the server's address and the credentials are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    Kubeconfig(PathBuf),
    /// Another context of a kubeconfig than the current one.
    Context(PathBuf, String),
    /// The service account of the pod that this process runs in.
    InCluster,
}

impl Source {
    /// A kubeconfig if there is one.
    pub fn new(kubeconfig: Option<&Path>) -> Source {
        kubeconfig.map_or(Source::InCluster, |path| Source::Kubeconfig(path.to_owned()))
    }
}

type Request = Result<http::Request<Vec<u8>>, kube::core::request::Error>;

/// A server, asked with the credentials that are on disk now.
pub struct Connection {
    source: Source,
    url: String,
    current: Mutex<Current>,
}

struct Current {
    client: Client,
    loaded: Loaded,
    checked: Instant,
}

/// What a client is made from; equal values make equal clients.
struct Loaded {
    config: Config,
    /// The files' contents.
    fingerprint: Vec<Vec<u8>>,
}

impl Connection {
    /// Reads the configuration; nothing is sent yet. Inside a runtime, whose tasks the client will use.
    pub async fn open(source: Source) -> Result<Connection, OpenError> {
        let loaded = load(&source).await?;
        let url = loaded.config.cluster_url.to_string().trim_end_matches('/').to_owned();
        let client = client(&source, &loaded)?;
        Ok(Connection { source, url, current: Mutex::new(Current { client, loaded, checked: Instant::now() }) })
    }

    /// The server's.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// An answer that is read piece by piece.
    pub async fn stream(&self, request: Request) -> Result<impl AsyncBufRead + Unpin + use<>, Failure> {
        let request = built(request)?;
        let client = self.client(false).await;
        let sent = within(CONNECT + ANSWER, client.request_stream(request.clone())).await;
        let body = match sent {
            Err(e) if e.is_unauthorized() => within(CONNECT + ANSWER, self.client(true).await.request_stream(request)).await,
            other => other,
        };
        body.map(Box::pin)
    }

    /// An answer of JSON.
    pub async fn json(&self, request: Request) -> Result<Value, Failure> {
        let request = built(request)?;
        let client = self.client(false).await;
        let sent = within(ANSWER, client.request_text(request.clone())).await;
        let text = match sent {
            Err(e) if e.is_unauthorized() => within(ANSWER, self.client(true).await.request_text(request)).await,
            other => other,
        }?;
        serde_json::from_str(&text).map_err(|e| Failure::unreachable(format!("the answer is not JSON: {e}")))
    }

    /// The client with the credentials on disk; they are looked at if that is due, or `now`.
    async fn client(&self, now: bool) -> Client {
        {
            let mut current = self.lock();
            if !now && current.checked.elapsed() < CREDENTIALS {
                return current.client.clone();
            }
            current.checked = Instant::now();
        }
        // What cannot be read now may be in the middle of being replaced: the old stays in use.
        let loaded = load(&self.source).await;
        let mut current = self.lock();
        if let Ok(loaded) = loaded
            && loaded.fingerprint != current.loaded.fingerprint
            && let Ok(client) = client(&self.source, &loaded)
        {
            (current.client, current.loaded) = (client, loaded);
        }
        current.client.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn built(request: Request) -> Result<http::Request<Vec<u8>>, Failure> {
    request.map_err(|e| Failure::unreachable(e.to_string()))
}

async fn within<T>(limit: Duration, answer: impl Future<Output = kube::Result<T>>) -> Result<T, Failure> {
    match tokio::time::timeout(limit, answer).await {
        Ok(result) => result.map_err(Failure::from),
        Err(_) => Err(Failure::unreachable(format!("no answer within {} s", limit.as_secs()))),
    }
}

fn client(source: &Source, loaded: &Loaded) -> Result<Client, OpenError> {
    Client::try_from(loaded.config.clone()).map_err(|e| fault(source, &e))
}

fn fault(source: &Source, e: &dyn std::error::Error) -> OpenError {
    let message = std::iter::successors(Some(e), |e| e.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ");
    match source {
        Source::Kubeconfig(path) | Source::Context(path, _) => OpenError::Kubeconfig { path: path.clone(), message },
        Source::InCluster => OpenError::InCluster { message },
    }
}

async fn of_kubeconfig(source: &Source, path: &Path, context: Option<&str>) -> Result<Config, OpenError> {
    let kubeconfig = Kubeconfig::read_from(path).map_err(|e| fault(source, &e))?;
    if let Some(name) = context.filter(|name| kubeconfig.contexts.iter().all(|c| c.name != **name)) {
        let known: Vec<&str> = kubeconfig.contexts.iter().map(|c| c.name.as_str()).collect();
        let message = format!("there is no context {name:?}; it has {}", known.join(", "));
        return Err(OpenError::Kubeconfig { path: path.to_owned(), message });
    }
    let options = KubeConfigOptions { context: context.map(str::to_owned), ..KubeConfigOptions::default() };
    Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(|e| fault(source, &e))
}

async fn load(source: &Source) -> Result<Loaded, OpenError> {
    let mut config = match source {
        Source::Kubeconfig(path) => of_kubeconfig(source, path, None).await?,
        Source::Context(path, context) => of_kubeconfig(source, path, Some(context)).await?,
        Source::InCluster => Config::incluster_env().map_err(|e| fault(source, &e))?,
    };
    let mut files: Vec<PathBuf> = config.root_cert_file.iter().cloned().collect();
    if let Source::Kubeconfig(path) | Source::Context(path, _) = source {
        files.push(path.clone());
    }
    let auth = &config.auth_info;
    files.extend([&auth.client_certificate, &auth.client_key].into_iter().flatten().map(PathBuf::from));
    let mut fingerprint: Vec<Vec<u8>> = files.iter().map(|f| std::fs::read(f).unwrap_or_default()).collect();
    fingerprint.extend(config.root_cert.iter().flatten().cloned());
    // Read here and not by the client, which would look once a minute only.
    if let Some(path) = config.auth_info.token_file.take()
        && config.auth_info.token.is_none()
    {
        let token = std::fs::read_to_string(Path::new(&path)).map_err(|e| OpenError::Token { path: path.into(), source: e })?;
        fingerprint.push(token.clone().into_bytes());
        config.auth_info.token = Some(token.trim().to_owned().into());
    }
    config.connect_timeout = Some(CONNECT);
    // Who asks decides when to ask again.
    config.default_retry = false;
    Ok(Loaded { config, fingerprint })
}
