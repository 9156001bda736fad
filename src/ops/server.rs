//! HTTP/1.1 as far as the daemon needs it: GET, PUT without a body, one request per connection, over a unix socket or TCP. Small
//! enough to be written out here.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;

/// Longest request, bytes: a request line and the headers that curl sends are a tenth of it.
pub const MAX_REQUEST: usize = 8192;
/// Connections answered at the same time; more wait in the socket's backlog.
pub const MAX_CONNECTIONS: usize = 16;
/// A connection that takes longer is closed, unless its answer is a [`Lasting`] one.
pub const CONNECTION_TIME: Duration = Duration::from_secs(15);

pub const OK: &str = "200 OK";
pub const NOT_FOUND: &str = "404 Not Found";
pub const INTERNAL_ERROR: &str = "500 Internal Server Error";
pub const UNAVAILABLE: &str = "503 Service Unavailable";
pub const CONFLICT: &str = "409 Conflict";
pub const BAD_REQUEST: &str = "400 Bad Request";
const NOT_ALLOWED: &str = "405 Method Not Allowed";

pub const JSON: &str = "application/json";
pub const TEXT: &str = "text/plain; charset=utf-8";

/// What a request is answered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Code and reason.
    pub status: &'static str,
    /// Content-Type.
    pub kind: &'static str,
    pub body: Vec<u8>,
}

impl Answer {
    /// `{"error": message}`.
    pub fn error(status: &'static str, message: &str) -> Answer {
        Answer { status, kind: JSON, body: serde_json::json!({ "error": message }).to_string().into_bytes() }
    }

    /// Writes it, and ends the connection.
    pub async fn send(self, mut connection: Connection) -> io::Result<()> {
        let allow = if self.status == NOT_ALLOWED { "Allow: GET\r\n" } else { "" };
        let head = format!(
            "HTTP/1.1 {}\r\nContent-Type: {}\r\n{allow}Content-Length: {}\r\nConnection: close\r\n\r\n",
            self.status,
            self.kind,
            self.body.len()
        );
        connection.write_all(head.as_bytes()).await?;
        connection.write_all(&self.body).await?;
        connection.shutdown().await
    }
}

/// Writes an answer that takes as long as it takes.
pub type Lasting = Box<dyn FnOnce(Connection) -> Pin<Box<dyn Future<Output = io::Result<()>> + Send>> + Send>;

/// What a server serves.
pub trait Handler: Send + Sync + 'static {
    /// The answer to GET of a path; `query` is what follows the '?'. Runs on a thread where it may take its time.
    fn get(&self, path: &str, query: Option<&str>) -> Answer;

    /// The answer to PUT of a path that takes it; everything is in the query. Must not block.
    fn put(&self, _path: &str, _query: Option<&str>) -> Option<Answer> {
        None
    }

    /// Who writes the answer where it is a lasting one. Must not block.
    fn lasting(&self, _path: &str, _query: Option<&str>) -> Option<Lasting> {
        None
    }
}

/// Where a server listens.
pub enum Socket {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// What a connection can do.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// An accepted connection.
pub type Connection = Box<dyn Stream>;

impl Socket {
    async fn accept(&self) -> io::Result<Connection> {
        Ok(match self {
            Socket::Unix(l) => Box::new(l.accept().await?.0),
            Socket::Tcp(l) => Box::new(l.accept().await?.0),
        })
    }
}

/// Answers requests until the returned future is dropped, which also ends open connections.
pub async fn serve(socket: &Socket, handler: Arc<dyn Handler>) {
    let mut open = JoinSet::new();
    loop {
        while open.try_join_next().is_some() {}
        if open.len() >= MAX_CONNECTIONS {
            open.join_next().await;
        }
        match socket.accept().await {
            Ok(stream) => {
                let handler = handler.clone();
                open.spawn(async move {
                    if let Err(e) = answer(stream, handler).await {
                        tracing::debug!("HTTP connection: {e}");
                    }
                });
            }
            Err(e) => {
                // Out of descriptors, mostly: forwarding goes on, and so do answers once it is over.
                tracing::warn!("HTTP socket: accept: {e}");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

/// Reads one request and writes its answer. All but a lasting one must be done in time.
async fn answer(connection: Connection, handler: Arc<dyn Handler>) -> io::Result<()> {
    let late = || io::Error::new(io::ErrorKind::TimedOut, format!("closed after {} s", CONNECTION_TIME.as_secs()));
    match tokio::time::timeout(CONNECTION_TIME, answer_soon(connection, handler)).await {
        Err(_) => Err(late()),
        Ok(Err(e)) => Err(e),
        Ok(Ok(None)) => Ok(()),
        Ok(Ok(Some((connection, lasting)))) => lasting(connection).await,
    }
}

/// Reads one request and writes its answer, unless that is a lasting one.
async fn answer_soon(mut connection: Connection, handler: Arc<dyn Handler>) -> io::Result<Option<(Connection, Lasting)>> {
    let mut request = Vec::with_capacity(1024);
    let answer = loop {
        let mut chunk = [0u8; 1024];
        let n = connection.read(&mut chunk).await?;
        request.extend_from_slice(&chunk[..n]);
        if let Some(end) = head_end(&request) {
            match respond(&request[..end], handler).await {
                Reply::Whole(answer) => break answer,
                Reply::Lasting(lasting) => return Ok(Some((connection, lasting))),
            }
        }
        if n == 0 {
            return Ok(None);
        }
        if request.len() >= MAX_REQUEST {
            break Answer::error("431 Request Header Fields Too Large", "the request is longer than 8192 bytes");
        }
    };
    answer.send(connection).await?;
    Ok(None)
}

enum Reply {
    Whole(Answer),
    Lasting(Lasting),
}

impl From<Answer> for Reply {
    fn from(answer: Answer) -> Reply {
        Reply::Whole(answer)
    }
}

/// Where a head ends: at the first empty line.
pub fn head_end(b: &[u8]) -> Option<usize> {
    b.windows(4).position(|w| w == b"\r\n\r\n").or_else(|| b.windows(2).position(|w| w == b"\n\n"))
}

/// The answer to a request's head.
async fn respond(head: &[u8], handler: Arc<dyn Handler>) -> Reply {
    let line = head.split(|b| *b == b'\r' || *b == b'\n').next().unwrap_or_default();
    let Ok(line) = std::str::from_utf8(line) else {
        return Answer::error(BAD_REQUEST, "the request line is not text").into();
    };
    let mut words = line.split(' ');
    let (Some(method), Some(target), Some(version), None) = (words.next(), words.next(), words.next(), words.next()) else {
        return Answer::error(BAD_REQUEST, "expected: GET PATH HTTP/1.1").into();
    };
    if !version.starts_with("HTTP/1.") {
        return Answer::error("505 HTTP Version Not Supported", "HTTP/1.1 only").into();
    }
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    match method {
        "GET" => {}
        "PUT" => return handler.put(path, query).unwrap_or_else(|| Answer::error(NOT_ALLOWED, "only GET")).into(),
        _ => return Answer::error(NOT_ALLOWED, "only GET").into(),
    }
    if let Some(lasting) = handler.lasting(path, query) {
        return Reply::Lasting(lasting);
    }
    let (path, query) = (path.to_owned(), query.map(str::to_owned));
    // An answer of a million rows takes a while to write.
    match tokio::task::spawn_blocking(move || handler.get(&path, query.as_deref())).await {
        Ok(answer) => answer.into(),
        Err(e) => Answer::error(INTERNAL_ERROR, &e.to_string()).into(),
    }
}
