//! Connections and requests.

use super::Shared;
use super::body::{self, Chunks};
use super::faults::{Fault, Verb};
use super::kinds::{Resource, Target};
use super::read::{self, Query};
use super::state::{State, Stored};
use super::status::Refusal;
use crate::control::datastore::objects::merge;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::convert::Infallible;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// Serves until dropped; all connections end with it.
pub async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let _ = stream.set_nodelay(true);
                let (tls, shared) = (tls.clone(), shared.clone());
                connections.spawn(async move {
                    match tls {
                        Some(tls) => if let Ok(stream) = tls.accept(stream).await { connection(stream, shared).await },
                        None => connection(stream, shared).await,
                    }
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S, shared: Arc<Shared>) {
    let service = service_fn(move |request| {
        let shared = shared.clone();
        async move { Ok::<_, Infallible>(answer(request, shared).await) }
    });
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(request: Request<Incoming>, shared: Arc<Shared>) -> Response<Chunks> {
    handle(request, shared).await.unwrap_or_else(|refusal| refused(&refusal))
}

fn refused(refusal: &Refusal) -> Response<Chunks> {
    let mut response = json(refusal.code, refusal.to_json().to_string());
    if let Some(seconds) = refusal.retry_after {
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    response
}

fn json(code: u16, text: String) -> Response<Chunks> {
    with_body(code, body::whole(text))
}

fn with_body(code: u16, chunks: Chunks) -> Response<Chunks> {
    let mut response = Response::new(chunks);
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/json"));
    response
}

async fn handle(request: Request<Incoming>, shared: Arc<Shared>) -> Result<Response<Chunks>, Refusal> {
    let query = Query::parse(request.uri().query());
    authenticate(&request, &shared)?;
    let groups = shared.lock().settings.groups;
    let target = Target::parse(request.uri().path(), groups)?;
    let verb = verb(&request, &target, &query)?;
    let plural = match &target {
        Target::Document(_) => "",
        Target::Review => "selfsubjectaccessreviews",
        Target::Objects { resource, .. } => resource.plural,
    };
    let fault = shared.lock().faults.strike(verb, plural);
    match &fault {
        Some(Fault::Refuse(refusal)) => return Err(refusal.clone()),
        Some(Fault::Delay(time)) => tokio::time::sleep(*time).await,
        _ => {}
    }
    let (resource, namespace, name, status) = match target {
        Target::Document(document) => return Ok(json(200, document.to_string())),
        Target::Review => {
            let review = whole(request).await?;
            return Ok(json(201, reviewed(review, &shared)?.to_string()));
        }
        Target::Objects { resource, namespace, name, status } => (resource, namespace, name, status),
    };
    if shared.lock().settings.forbidden.contains(plural) {
        return Err(Refusal::forbidden(verb.word(), resource));
    }
    let cut_after = if let Some(Fault::CutAfter(bytes)) = fault { Some(bytes) } else { None };
    match verb {
        Verb::List => {
            let page = read::list(&mut shared.lock().state, resource, namespace, &query)?;
            let (writer, chunks) = body::chunks(cut_after);
            tokio::spawn(read::send_list(resource, page, writer));
            Ok(with_body(200, chunks))
        }
        Verb::Watch => {
            let watch = read::start_watch(&shared, resource, namespace, &query, fault.as_ref())?;
            let (writer, chunks) = body::chunks(cut_after);
            tokio::spawn(watch.stream(shared, writer));
            Ok(with_body(200, chunks))
        }
        _ => {
            let body = whole(request).await?;
            let at = At { resource, namespace: namespace.unwrap_or_default(), name: name.unwrap_or_default(), status };
            let done = shared.edit(|state| at.single(state, verb, body, fault.as_ref()))?;
            if let Some(Fault::LoseAnswer) = fault {
                return Ok(with_body(200, body::lost()));
            }
            Ok(json(if verb == Verb::Create { 201 } else { 200 }, done.text.clone()))
        }
    }
}

/// The request's body.
async fn whole(request: Request<Incoming>) -> Result<Value, Refusal> {
    let body = request.into_body().collect().await.map_err(|e| Refusal::bad_request(e.to_string()))?.to_bytes();
    if body.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&body).map_err(|e| Refusal::bad_request(e.to_string()))
}

/// A review with its answer.
fn reviewed(mut review: Value, shared: &Shared) -> Result<Value, Refusal> {
    let asked = review["spec"]["resourceAttributes"].clone();
    let text = |key: &str| asked[key].as_str().unwrap_or_default().to_owned();
    if review["kind"] != "SelfSubjectAccessReview" || text("verb").is_empty() || text("resource").is_empty() {
        return Err(Refusal::bad_request("spec.resourceAttributes: a verb and a resource are required"));
    }
    review["status"] = serde_json::json!({"allowed": !shared.lock().settings.forbidden.contains(&text("resource"))});
    Ok(review)
}

fn authenticate(request: &Request<Incoming>, shared: &Shared) -> Result<(), Refusal> {
    let inner = shared.lock();
    let Some(tokens) = &inner.settings.tokens else { return Ok(()) };
    let given = request.headers().get(AUTHORIZATION).and_then(|v| v.to_str().ok()).and_then(|v| v.strip_prefix("Bearer "));
    if given.is_some_and(|g| tokens.iter().any(|t| t == g)) { Ok(()) } else { Err(Refusal::unauthorized()) }
}

fn verb(request: &Request<Incoming>, target: &Target, query: &Query) -> Result<Verb, Refusal> {
    let named = match target {
        Target::Document(_) => return Ok(Verb::Discover),
        Target::Review => false,
        Target::Objects { name, .. } => name.is_some(),
    };
    match (request.method(), named) {
        (&Method::GET, false) if query.flag("watch") => Ok(Verb::Watch),
        (&Method::GET, false) => Ok(Verb::List),
        (&Method::GET, true) => Ok(Verb::Get),
        (&Method::POST, false) => Ok(Verb::Create),
        (&Method::PUT, true) => Ok(Verb::Update),
        (&Method::PATCH, true) => {
            let content_type = request.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
            if content_type == "application/merge-patch+json" {
                Ok(Verb::Patch)
            } else {
                Err(Refusal::new(415, "UnsupportedMediaType", format!("{content_type:?}: only merge patches are served here")))
            }
        }
        (&Method::DELETE, true) => Ok(Verb::Delete),
        (method, _) => Err(Refusal::new(405, "MethodNotAllowed", format!("{method} is not served here"))),
    }
}

/// One object, or where it is to be.
struct At {
    resource: &'static Resource,
    namespace: String,
    name: String,
    status: bool,
}

impl At {
    fn single(&self, state: &mut State, verb: Verb, body: Value, fault: Option<&Fault>) -> Result<Arc<Stored>, Refusal> {
        let At { resource, namespace, name, status } = self;
        if let Some(Fault::ComeFirst(patch)) = fault
            && let Ok(stored) = state.get(resource, namespace, name)
        {
            let mut value = stored.value();
            merge(&mut value, patch);
            state.put(resource, value);
        }
        match verb {
            Verb::Create => state.create(resource, namespace, body),
            Verb::Update => state.update(resource, namespace, name, body, *status),
            Verb::Patch => state.patch(resource, namespace, name, &body, *status),
            Verb::Delete => state.delete(resource, namespace, name, &body["preconditions"]),
            _ => state.get(resource, namespace, name),
        }
    }
}
