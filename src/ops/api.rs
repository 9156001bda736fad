//! The API of a running node: HTTP/1.1 over a unix socket, JSON bodies, one request per connection.
//! GET tells; PUT sets what little can be set while running.
//! Plain enough for `curl --unix-socket`.

use super::replay::State;
use super::server::{self, Answer, CONNECTION_TIME, Handler, Lasting, Socket, head_end};
use super::source::Source;
use super::trace::last::Last;
use super::trace::stream;
use super::view::{
    ActivityRow, ConfigRow, CounterRow, DropRow, EndpointRow, FdbRow, FibRow, LastTraceRow, LogLevelRow, NeighRow, PeersRow, PortRow,
    StatusRow,
};
use crate::control::logging;
use serde::de::DeserializeOwned;
use std::fs;
use std::future::Future;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixListener;

/// Where the daemon listens and the CLI asks unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/tortie/tortie.sock";
/// The word by which the level is the configured one again.
pub const DEFAULT_LEVEL: &str = "default";
/// Longest answer that the client reads, bytes: a million routes are a quarter of it.
const MAX_ANSWER: u64 = 1 << 30;

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    Fib,
    Fdb,
    Neigh,
    Ports,
    Endpoints,
    Drops,
    Counters,
    Status,
    Config,
    Activity,
    State,
    Peers,
    LogLevel,
    Log,
    LastTrace,
}

impl Resource {
    pub const ALL: [Resource; 15] = [
        Resource::Fib,
        Resource::Fdb,
        Resource::Neigh,
        Resource::Ports,
        Resource::Endpoints,
        Resource::Drops,
        Resource::Counters,
        Resource::Status,
        Resource::Config,
        Resource::Activity,
        Resource::State,
        Resource::Peers,
        Resource::LogLevel,
        Resource::Log,
        Resource::LastTrace,
    ];

    /// Path of the resource in a request.
    pub const fn path(self) -> &'static str {
        match self {
            Resource::Fib => "/v1/fib",
            Resource::Fdb => "/v1/fdb",
            Resource::Neigh => "/v1/neigh",
            Resource::Ports => "/v1/ports",
            Resource::Endpoints => "/v1/endpoints",
            Resource::Drops => "/v1/drops",
            Resource::Counters => "/v1/counters",
            Resource::Status => "/v1/status",
            Resource::Config => "/v1/config",
            Resource::Activity => "/v1/activity",
            Resource::State => "/v1/state",
            Resource::Peers => "/v1/peers",
            Resource::LogLevel => "/v1/log-level",
            Resource::Log => "/v1/log",
            Resource::LastTrace => "/v1/last-trace",
        }
    }

    /// `query` is what follows the '?'.
    fn render(self, query: Option<&str>, s: &dyn Source, last: &Last) -> serde_json::Result<Vec<u8>> {
        match self {
            Resource::Fib => serde_json::to_vec(&s.fib()),
            Resource::Fdb => serde_json::to_vec(&s.fdb()),
            Resource::Neigh => serde_json::to_vec(&s.neigh()),
            Resource::Ports => serde_json::to_vec(&s.ports()),
            Resource::Endpoints => {
                let name = query.and_then(|q| q.strip_prefix("name="));
                let wanted = |e: &EndpointRow| name.is_none_or(|n| n == e.name);
                serde_json::to_vec(&s.endpoints().into_iter().filter(wanted).collect::<Vec<_>>())
            }
            Resource::Drops => serde_json::to_vec(&s.drops()),
            Resource::Counters => serde_json::to_vec(&s.counters()),
            Resource::Status => serde_json::to_vec(&s.status()),
            Resource::Config => serde_json::to_vec(&s.config()),
            Resource::Peers => serde_json::to_vec(&s.peers()),
            Resource::LogLevel => serde_json::to_vec(&LogLevelRow::from(log()?.in_force())),
            Resource::Log => serde_json::to_vec(&log()?.lines()),
            Resource::LastTrace => serde_json::to_vec(&last.row()),
            Resource::Activity => serde_json::to_vec(&s.activity()),
            Resource::State => {
                serde_json::to_vec(&s.state().ok_or_else(|| serde::ser::Error::custom("the control plane does not answer"))?)
            }
        }
    }
}

impl From<logging::InForce> for LogLevelRow {
    fn from(f: logging::InForce) -> LogLevelRow {
        LogLevelRow { level: f.level, source: f.source.into() }
    }
}

fn log() -> serde_json::Result<&'static logging::Log> {
    logging::get().ok_or_else(|| serde::ser::Error::custom("this process keeps no log"))
}

/// Why the API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("another daemon answers on {}: stop it, or give this one its own `api: {{socket: PATH}}`", path.display())]
    InUse { path: PathBuf },
    #[error("{} exists and is not a socket: remove it, or set another `api: {{socket: PATH}}`", path.display())]
    NotASocket { path: PathBuf },
    #[error("API socket: cannot {what} {}: {source}", path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
}

/// A bound API socket; its file goes when this is dropped.
#[derive(Debug)]
pub struct Listener {
    inner: StdListener,
    path: PathBuf,
    /// Device and inode, so that a successor's file is never removed.
    identity: (u64, u64),
}

/// Binds `path` (mode 0660, missing parent folder made) and replaces the file of a daemon that died.
/// Errors when another daemon answers there.
pub fn bind(path: &Path) -> Result<Listener, ServeError> {
    let fail = |what| move |source| ServeError::Io { what, path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Ok(m) if !m.file_type().is_socket() => return Err(ServeError::NotASocket { path: path.to_owned() }),
        Ok(_) => match StdStream::connect(path) {
            Ok(_) => return Err(ServeError::InUse { path: path.to_owned() }),
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(e) => return Err(fail("connect to")(e)),
        },
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent).map_err(fail("make the folder of"))?;
            }
        }
        Err(e) => return Err(fail("look at")(e)),
    }
    // Bound under another name and renamed: the path never shows a socket with the wrong mode, and a stale
    // file is replaced in one step.
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    let temporary = PathBuf::from(name);
    let _ = fs::remove_file(&temporary);
    let inner = StdListener::bind(&temporary).map_err(fail("bind"))?;
    let finish = || -> io::Result<(u64, u64)> {
        fs::set_permissions(&temporary, fs::Permissions::from_mode(0o660))?;
        inner.set_nonblocking(true)?;
        let m = fs::symlink_metadata(&temporary)?;
        fs::rename(&temporary, path)?;
        Ok((m.dev(), m.ino()))
    };
    match finish() {
        Ok(identity) => Ok(Listener { inner, path: path.to_owned(), identity }),
        Err(e) => {
            let _ = fs::remove_file(&temporary);
            Err(fail("set up")(e))
        }
    }
}

/// Goes on with the socket of the daemon before, which has left its file.
pub fn adopt(path: &Path, fd: OwnedFd) -> Result<Listener, ServeError> {
    let m = fs::symlink_metadata(path).map_err(|source| ServeError::Io { what: "look at", path: path.to_owned(), source })?;
    Ok(Listener { inner: fd.into(), path: path.to_owned(), identity: (m.dev(), m.ino()) })
}

impl Listener {
    /// For a successor.
    pub fn duplicate(&self) -> io::Result<OwnedFd> {
        Ok(self.inner.try_clone()?.into())
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|m| (m.dev(), m.ino()) == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Answers requests until the returned future is dropped, which also ends open connections and removes the
/// socket's file. Must run inside a tokio runtime with I/O and time enabled. Errors only if the socket cannot
/// be registered with the runtime.
pub async fn serve(listener: Listener, source: Arc<dyn Source>) -> io::Result<()> {
    let socket = UnixListener::from_std(listener.inner.try_clone()?)?;
    server::serve(&Socket::Unix(socket), Arc::new(Api { source, last: Arc::default() })).await;
    Ok(())
}

struct Api {
    source: Arc<dyn Source>,
    /// What traces have shown to their readers.
    last: Arc<Last>,
}

impl Handler for Api {
    fn get(&self, path: &str, query: Option<&str>) -> Answer {
        let Some(resource) = Resource::ALL.into_iter().find(|r| r.path() == path) else {
            let known: Vec<_> = Resource::ALL.iter().map(|r| r.path()).collect();
            return Answer::error(server::NOT_FOUND, &format!("no such resource; there are {}", known.join(", ")));
        };
        match resource.render(query, &*self.source, &self.last) {
            Ok(body) => Answer { status: server::OK, kind: server::JSON, body },
            Err(e) => Answer::error(server::INTERNAL_ERROR, &e.to_string()),
        }
    }

    fn put(&self, path: &str, query: Option<&str>) -> Option<Answer> {
        if path != Resource::LogLevel.path() {
            return None;
        }
        let level = match query.and_then(|q| q.strip_prefix("level=")) {
            Some(DEFAULT_LEVEL) => Ok(None),
            Some(word) => word.parse().map(Some),
            None => Err("expected: ?level=LEVEL".into()),
        };
        Some(match (level, logging::get()) {
            (Ok(level), Some(log)) => {
                log.choose(level);
                self.get(path, None)
            }
            (Ok(_), None) => Answer::error(server::INTERNAL_ERROR, "this process keeps no log"),
            (Err(e), _) => Answer::error(server::BAD_REQUEST, &e),
        })
    }

    fn lasting(&self, path: &str, query: Option<&str>) -> Option<Lasting> {
        let (source, last, query) = (self.source.clone(), self.last.clone(), query.unwrap_or_default().to_owned());
        let serve = |connection| -> Pin<Box<dyn Future<Output = io::Result<()>> + Send>> {
            Box::pin(stream::serve(connection, source, query, last))
        };
        (path == stream::TRACE).then(|| Box::new(serve) as Lasting)
    }
}

/// Why the daemon gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("no daemon answers on {}: is `tortie run` running? For another socket use --socket PATH", path.display())]
    NoDaemon { path: PathBuf },
    #[error("no permission to use {}: run as root, or as a member of the socket's group", path.display())]
    Permission { path: PathBuf },
    #[error("the daemon on {} did not answer in time", path.display())]
    Timeout { path: PathBuf },
    #[error("the daemon on {} refused {resource}: {status}: {message}", path.display())]
    Refused { path: PathBuf, resource: &'static str, status: String, message: String },
    #[error("not an answer of tortie on {}: {what}", path.display())]
    Malformed { path: PathBuf, what: String },
    #[error("talking to {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// Asks a daemon; blocking, for the CLI and the lab.
#[derive(Clone, Debug)]
pub struct Client {
    pub(super) path: PathBuf,
    pub(super) timeout: Duration,
}

impl Client {
    pub fn new(path: &Path) -> Client {
        Client { path: path.to_owned(), timeout: CONNECTION_TIME }
    }

    pub fn fib(&self) -> Result<Vec<FibRow>, ClientError> {
        self.get(Resource::Fib)
    }
    pub fn fdb(&self) -> Result<Vec<FdbRow>, ClientError> {
        self.get(Resource::Fdb)
    }
    pub fn neigh(&self) -> Result<Vec<NeighRow>, ClientError> {
        self.get(Resource::Neigh)
    }
    pub fn ports(&self) -> Result<Vec<PortRow>, ClientError> {
        self.get(Resource::Ports)
    }
    pub fn endpoints(&self) -> Result<Vec<EndpointRow>, ClientError> {
        self.get(Resource::Endpoints)
    }
    /// One by its name, which needs no escaping: names are letters, digits, '-', '.' and one '/'.
    pub fn endpoint(&self, name: &str) -> Result<Option<EndpointRow>, ClientError> {
        let body = self.body(Resource::Endpoints, &format!("?name={name}"))?;
        let rows: Vec<EndpointRow> = self.read(Resource::Endpoints, &body)?;
        Ok(rows.into_iter().next())
    }
    pub fn drops(&self) -> Result<Vec<DropRow>, ClientError> {
        self.get(Resource::Drops)
    }
    pub fn counters(&self) -> Result<Vec<CounterRow>, ClientError> {
        self.get(Resource::Counters)
    }
    pub fn config(&self) -> Result<Vec<ConfigRow>, ClientError> {
        self.get(Resource::Config)
    }

    pub fn peers(&self) -> Result<PeersRow, ClientError> {
        self.get(Resource::Peers)
    }

    pub fn activity(&self) -> Result<ActivityRow, ClientError> {
        self.get(Resource::Activity)
    }

    pub fn status(&self) -> Result<StatusRow, ClientError> {
        self.get(Resource::Status)
    }

    pub fn state(&self) -> Result<State, ClientError> {
        self.get(Resource::State)
    }

    /// What the last trace or capture saw.
    pub fn last_trace(&self) -> Result<LastTraceRow, ClientError> {
        self.get(Resource::LastTrace)
    }

    pub fn log_level(&self) -> Result<LogLevelRow, ClientError> {
        self.get(Resource::LogLevel)
    }

    /// Sets it, to a level's name or [`DEFAULT_LEVEL`], and returns what is in force then.
    pub fn set_log_level(&self, level: &str) -> Result<LogLevelRow, ClientError> {
        self.read(Resource::LogLevel, &self.ask("PUT", Resource::LogLevel, &format!("?level={level}"))?)
    }

    fn get<T: DeserializeOwned>(&self, r: Resource) -> Result<T, ClientError> {
        self.read(r, &self.body(r, "")?)
    }

    fn read<T: DeserializeOwned>(&self, r: Resource, body: &[u8]) -> Result<T, ClientError> {
        serde_json::from_slice(body).map_err(|e| self.malformed(&format!("{}: {e}", r.path())))
    }

    /// The JSON that the daemon sent. `query` is empty or begins with '?'.
    pub fn body(&self, r: Resource, query: &str) -> Result<Vec<u8>, ClientError> {
        self.ask("GET", r, query)
    }

    fn ask(&self, method: &str, r: Resource, query: &str) -> Result<Vec<u8>, ClientError> {
        let answer = self.exchange(method, &format!("{}{query}", r.path())).map_err(|e| self.explain(e))?;
        let end = head_end(&answer).ok_or_else(|| self.malformed("no HTTP head"))?;
        let head = std::str::from_utf8(&answer[..end]).map_err(|_| self.malformed("the HTTP head is not text"))?;
        let body = &answer[(end + 4).min(answer.len())..];
        let status = head.lines().next().and_then(|l| l.strip_prefix("HTTP/1.1 ")).ok_or_else(|| self.malformed("no HTTP status line"))?;
        if !status.starts_with("200") {
            let message = serde_json::from_slice::<serde_json::Value>(body).ok();
            let message = message.as_ref().and_then(|v| v["error"].as_str()).unwrap_or("no reason given").to_owned();
            return Err(ClientError::Refused { path: self.path.clone(), resource: r.path(), status: status.to_owned(), message });
        }
        let length = head.lines().find_map(|l| l.strip_prefix("Content-Length: ")).and_then(|l| l.parse::<usize>().ok());
        if length != Some(body.len()) {
            return Err(self.malformed("the answer was cut off"));
        }
        Ok(body.to_vec())
    }

    fn exchange(&self, method: &str, path: &str) -> io::Result<Vec<u8>> {
        let mut s = StdStream::connect(&self.path)?;
        s.set_read_timeout(Some(self.timeout))?;
        s.set_write_timeout(Some(self.timeout))?;
        s.write_all(format!("{method} {path} HTTP/1.1\r\nHost: tortie\r\nConnection: close\r\n\r\n").as_bytes())?;
        let mut answer = Vec::new();
        s.take(MAX_ANSWER).read_to_end(&mut answer)?;
        Ok(answer)
    }

    pub(super) fn explain(&self, source: io::Error) -> ClientError {
        let path = self.path.clone();
        match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ClientError::NoDaemon { path },
            io::ErrorKind::PermissionDenied => ClientError::Permission { path },
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ClientError::Timeout { path },
            _ => ClientError::Io { path, source },
        }
    }

    pub(super) fn malformed(&self, what: &str) -> ClientError {
        ClientError::Malformed { path: self.path.clone(), what: what.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::super::server::{MAX_CONNECTIONS, MAX_REQUEST};
    use super::*;
    use crate::control::facts::TapError;
    use crate::frame::PortId;
    use crate::worker::tap::{Filter, Tap};

    struct Fixed;

    impl Source for Fixed {
        fn fib(&self) -> Vec<FibRow> {
            (0..5000)
                .map(|i| FibRow {
                    prefix: format!("10.{}.{}.0/26", i / 256, i % 256),
                    kind: "vxlan".into(),
                    via: Some("10.244.1.0".parse().unwrap()),
                    node: Some("n2".into()),
                    port: Some("eth0".into()),
                    mtu: Some(1450),
                    packets: Some(i),
                })
                .collect()
        }
        fn fdb(&self) -> Vec<FdbRow> {
            vec![FdbRow { mac: "66:b6:a5:9d:e1:c9".into(), dst: "10.0.0.2".parse().unwrap(), node: "n2".into(), vni: 4096 }]
        }
        fn neigh(&self) -> Vec<NeighRow> {
            vec![]
        }
        fn ports(&self) -> Vec<PortRow> {
            vec![]
        }
        fn endpoints(&self) -> Vec<EndpointRow> {
            let row = |n: u8| EndpointRow {
                name: format!("default/n1-k8s-p{n}-eth0"),
                workload: format!("default/p{n}"),
                interface: format!("cali{n}"),
                ifindex: n.into(),
                netns: None,
                addresses: vec![[10, 244, 1, n].into()],
                ready: true,
            };
            (1..4).map(row).collect()
        }
        fn drops(&self) -> Vec<DropRow> {
            vec![DropRow { reason: "no-route".into(), packets: 3 }]
        }
        fn counters(&self) -> Vec<CounterRow> {
            vec![CounterRow { worker: "total".into(), received: 7, ..CounterRow::default() }]
        }
        fn activity(&self) -> ActivityRow {
            ActivityRow { node: "n1".into(), ..ActivityRow::default() }
        }
        fn config(&self) -> Vec<ConfigRow> {
            vec![ConfigRow { key: "node".into(), value: "n1".into(), source: "default".into() }]
        }
        fn peers(&self) -> PeersRow {
            PeersRow::default()
        }
        fn status(&self) -> StatusRow {
            panic!("a source that fails must not take the API down")
        }
        fn state(&self) -> Option<State> {
            None
        }
        fn trace(&self, filter: &str, _: u64) -> Result<Arc<Tap>, TapError> {
            let filter = Filter::parse(filter, &|_| None)?;
            let tap = Tap::new(filter, 4789, 0);
            Ok(Arc::new(tap))
        }
        fn interfaces(&self) -> std::collections::BTreeMap<PortId, String> {
            Default::default()
        }
    }

    /// A server on its own thread and runtime; stops and removes its socket when dropped.
    struct Server {
        dir: tempfile::TempDir,
        stop: Option<tokio::sync::oneshot::Sender<()>>,
        thread: Option<std::thread::JoinHandle<()>>,
    }

    impl Server {
        fn start() -> Server {
            let dir = tempfile::tempdir().unwrap();
            let listener = bind(&dir.path().join("sub/api.sock")).unwrap();
            let (stop, stopped) = tokio::sync::oneshot::channel();
            let thread = std::thread::spawn(move || {
                let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                rt.block_on(async {
                    tokio::select! { r = serve(listener, Arc::new(Fixed)) => r.unwrap(), _ = stopped => {} }
                });
            });
            Server { dir, stop: Some(stop), thread: Some(thread) }
        }
        fn path(&self) -> PathBuf {
            self.dir.path().join("sub/api.sock")
        }
        fn raw(&self, request: &[u8]) -> String {
            let mut s = StdStream::connect(self.path()).unwrap();
            s.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            // The server may answer and close before it has read everything.
            let _ = s.write_all(request);
            let mut out = Vec::new();
            let _ = s.read_to_end(&mut out);
            String::from_utf8(out).unwrap()
        }
    }

    impl Drop for Server {
        fn drop(&mut self) {
            let _ = self.stop.take().unwrap().send(());
            self.thread.take().unwrap().join().unwrap();
        }
    }

    #[test]
    fn rows_arrive_as_they_were_sent() {
        let server = Server::start();
        let client = Client::new(&server.path());
        assert_eq!(client.fib().unwrap(), Fixed.fib());
        assert_eq!(client.fdb().unwrap(), Fixed.fdb());
        assert_eq!(client.drops().unwrap(), Fixed.drops());
        assert_eq!(client.endpoints().unwrap(), Fixed.endpoints());
        assert_eq!(client.endpoint("default/n1-k8s-p2-eth0").unwrap().as_ref(), Some(&Fixed.endpoints()[1]));
        assert_eq!(client.endpoint("default/n1-k8s-p-eth0").unwrap(), None);
        assert_eq!(client.counters().unwrap(), Fixed.counters());
        assert_eq!(client.config().unwrap(), Fixed.config());
        let mode = fs::metadata(server.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
    }

    #[test]
    fn a_failing_source_is_a_500_and_the_next_request_works() {
        let server = Server::start();
        let client = Client::new(&server.path());
        assert!(matches!(client.status(), Err(ClientError::Refused { status, .. }) if status.starts_with("500")));
        assert!(client.drops().is_ok());
    }

    #[test]
    fn bad_requests_get_their_status() {
        let server = Server::start();
        for (request, status) in [
            ("POST /v1/fib HTTP/1.1\r\n\r\n", "405"),
            ("GET /v1/nothing HTTP/1.1\r\n\r\n", "404"),
            ("GET /v1/fdb HTTP/2\r\n\r\n", "505"),
            ("rubbish\r\n\r\n", "400"),
            ("GET /v1/fdb?x=1 HTTP/1.0\r\nHost: a\r\n\r\n", "200"),
            ("GET /v1/fdb HTTP/1.1\n\n", "200"),
        ] {
            let answer = server.raw(request.as_bytes());
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{request:?}: {answer}");
        }
        assert!(server.raw(&[b'x'; MAX_REQUEST]).starts_with("HTTP/1.1 431"));
        assert!(server.raw(b"\xff\xfe \r\n\r\n").starts_with("HTTP/1.1 400"));
    }

    #[test]
    fn idle_connections_do_not_shut_others_out() {
        let server = Server::start();
        let _idle: Vec<_> = (0..MAX_CONNECTIONS - 1).map(|_| StdStream::connect(server.path()).unwrap()).collect();
        assert!(Client::new(&server.path()).fdb().is_ok());
    }

    #[test]
    fn a_dead_daemons_socket_is_replaced_and_a_live_ones_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.sock");
        drop(StdListener::bind(&path).unwrap());
        assert!(path.exists());
        assert!(matches!(Client::new(&path).fdb(), Err(ClientError::NoDaemon { .. })));
        let first = bind(&path).unwrap();
        assert!(matches!(bind(&path), Err(ServeError::InUse { .. })));
        drop(first);
        assert!(!path.exists(), "the file goes with the listener");
        fs::write(&path, "").unwrap();
        assert!(matches!(bind(&path), Err(ServeError::NotASocket { .. })));
    }

    #[test]
    fn a_listener_leaves_its_successors_file_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.sock");
        let first = bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let _second = bind(&path).unwrap();
        drop(first);
        assert!(path.exists());
    }
}
