//! HTTP/1.1 as far as the daemon needs it: GET, one request per connection, over a unix socket or TCP. Small
//! enough to be written out here.

use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;

/// Longest request, bytes: a request line and the headers that curl sends are a tenth of it.
pub const MAX_REQUEST: usize = 8192;
/// Connections answered at the same time; more wait in the socket's backlog.
pub const MAX_CONNECTIONS: usize = 16;
/// A connection that takes longer is closed.
pub const CONNECTION_TIME: Duration = Duration::from_secs(15);

pub const OK: &str = "200 OK";
pub const NOT_FOUND: &str = "404 Not Found";
pub const INTERNAL_ERROR: &str = "500 Internal Server Error";
pub const UNAVAILABLE: &str = "503 Service Unavailable";
const BAD_REQUEST: &str = "400 Bad Request";
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
}

/// What a server serves.
pub trait Handler: Send + Sync + 'static {
    /// The answer to GET of a path (without its query). Runs on a thread where it may take its time.
    fn get(&self, path: &str) -> Answer;
}

/// Where a server listens.
pub enum Socket {
    Unix(UnixListener),
    Tcp(TcpListener),
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Socket {
    async fn accept(&self) -> io::Result<Box<dyn Stream>> {
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
                    match tokio::time::timeout(CONNECTION_TIME, answer(stream, handler)).await {
                        Ok(Err(e)) => tracing::debug!("HTTP connection: {e}"),
                        Err(_) => tracing::debug!("HTTP connection closed after {} s", CONNECTION_TIME.as_secs()),
                        Ok(Ok(())) => {}
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

/// Reads one request and writes its answer.
async fn answer(mut stream: Box<dyn Stream>, handler: Arc<dyn Handler>) -> io::Result<()> {
    let mut request = Vec::with_capacity(1024);
    let answer = loop {
        let mut chunk = [0u8; 1024];
        let n = stream.read(&mut chunk).await?;
        request.extend_from_slice(&chunk[..n]);
        if let Some(end) = head_end(&request) {
            break respond(&request[..end], handler).await;
        }
        if n == 0 {
            return Ok(());
        }
        if request.len() >= MAX_REQUEST {
            break Answer::error("431 Request Header Fields Too Large", "the request is longer than 8192 bytes");
        }
    };
    let allow = if answer.status == NOT_ALLOWED { "Allow: GET\r\n" } else { "" };
    let head = format!(
        "HTTP/1.1 {}\r\nContent-Type: {}\r\n{allow}Content-Length: {}\r\nConnection: close\r\n\r\n",
        answer.status,
        answer.kind,
        answer.body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(&answer.body).await?;
    stream.shutdown().await
}

/// Where a head ends: at the first empty line.
pub fn head_end(b: &[u8]) -> Option<usize> {
    b.windows(4).position(|w| w == b"\r\n\r\n").or_else(|| b.windows(2).position(|w| w == b"\n\n"))
}

/// The answer to a request's head.
async fn respond(head: &[u8], handler: Arc<dyn Handler>) -> Answer {
    let line = head.split(|b| *b == b'\r' || *b == b'\n').next().unwrap_or_default();
    let Ok(line) = std::str::from_utf8(line) else {
        return Answer::error(BAD_REQUEST, "the request line is not text");
    };
    let mut words = line.split(' ');
    let (Some(method), Some(target), Some(version), None) = (words.next(), words.next(), words.next(), words.next()) else {
        return Answer::error(BAD_REQUEST, "expected: GET PATH HTTP/1.1");
    };
    if !version.starts_with("HTTP/1.") {
        return Answer::error("505 HTTP Version Not Supported", "HTTP/1.1 only");
    }
    if method != "GET" {
        return Answer::error(NOT_ALLOWED, "only GET");
    }
    let path = target.split('?').next().unwrap_or(target).to_owned();
    // An answer of a million rows takes a while to write.
    match tokio::task::spawn_blocking(move || handler.get(&path)).await {
        Ok(answer) => answer,
        Err(e) => Answer::error(INTERNAL_ERROR, &e.to_string()),
    }
}
