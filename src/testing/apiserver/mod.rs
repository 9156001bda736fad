//! A Kubernetes API server for tests, on loopback: Kubernetes' own kinds and Calico's definitions in both groups, with
//! lists in pages, watches, streaming lists, bookmarks, compare-and-swap and the answers that a real one refuses with.
//! The test decides what goes wrong, and reads how often it was asked for what.

mod body;
mod faults;
mod kinds;
mod read;
mod schema;
mod serve;
mod state;
mod status;
mod tls;

pub use faults::{Fault, Verb};
pub use kinds::{Groups, Resource};
pub use status::Refusal;

use faults::Faults;
use serde_json::Value;
use state::{Selector, State};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tls::Authority;
use tokio::sync::watch;

/// How the server answers.
struct Settings {
    groups: Groups,
    /// Bearer tokens that are accepted; `None`: no token is asked for.
    tokens: Option<Vec<String>>,
    /// Resources, by plural, that nobody may touch.
    forbidden: BTreeSet<String>,
    streaming_lists: bool,
    bookmark_every: Option<Duration>,
}

struct Inner {
    state: State,
    faults: Faults,
    settings: Settings,
    open: BTreeMap<&'static str, usize>,
}

struct Shared {
    inner: Mutex<Inner>,
    /// The revision.
    changed: watch::Sender<u64>,
    /// Counts up; with the plural whose watches are cut, empty for all.
    cut: watch::Sender<(u64, String)>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the objects and tells the watches.
    fn edit<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        let mut inner = self.lock();
        let result = f(&mut inner.state);
        let revision = inner.state.revision;
        drop(inner);
        self.changed.send_if_modified(|r| std::mem::replace(r, revision) != revision);
        result
    }

    fn opened(self: &Arc<Shared>, plural: &'static str) -> Open {
        *self.lock().open.entry(plural).or_default() += 1;
        Open { shared: self.clone(), plural }
    }
}

/// Counts an open watch as long as it lives.
struct Open {
    shared: Arc<Shared>,
    plural: &'static str,
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(n) = self.shared.lock().open.get_mut(self.plural) {
            *n -= 1;
        }
    }
}

enum Command {
    Start(Sender<std::io::Result<()>>),
    Stop(Sender<()>),
}

/// A running server. It ends when dropped.
pub struct ApiServer {
    address: SocketAddr,
    authority: Option<Authority>,
    shared: Arc<Shared>,
    commands: Option<tokio::sync::mpsc::UnboundedSender<Command>>,
    thread: Option<JoinHandle<()>>,
}

impl ApiServer {
    /// Over HTTPS on a free port of 127.0.0.1, with a certificate of an authority of its own.
    pub fn start() -> ApiServer {
        ApiServer::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), true)
    }

    /// Over plain HTTP.
    pub fn start_plain() -> ApiServer {
        ApiServer::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), false)
    }

    /// On an address of the calling thread's network namespace. Panics if that cannot be had.
    pub fn start_at(address: SocketAddr, https: bool) -> ApiServer {
        let settings =
            Settings { groups: Groups::V1, tokens: None, forbidden: BTreeSet::new(), streaming_lists: true, bookmark_every: None };
        let inner = Inner { state: State::default(), faults: Faults::default(), settings, open: BTreeMap::new() };
        let shared =
            Arc::new(Shared { inner: Mutex::new(inner), changed: watch::Sender::new(0), cut: watch::Sender::new((0, String::new())) });
        // Revision 0 means "any" in requests.
        shared.edit(|s| s.revision = 1);
        let authority = https.then(|| Authority::new(address.ip()));
        let (commands, orders) = tokio::sync::mpsc::unbounded_channel();
        let (bound, address_of) = mpsc::channel();
        let run = {
            let (shared, acceptor) = (shared.clone(), authority.as_ref().map(Authority::acceptor));
            move || keep(address, acceptor, shared, orders, &bound)
        };
        let thread = thread::Builder::new().name("apiserver".into()).spawn(run).expect("start a thread");
        let address = address_of.recv().expect("the server's thread").unwrap_or_else(|e| panic!("listen at {address}: {e}"));
        ApiServer { address, authority, shared, commands: Some(commands), thread: Some(thread) }
    }

    pub fn url(&self) -> String {
        format!("{}://{}", if self.authority.is_some() { "https" } else { "http" }, self.address)
    }

    /// Writes a kubeconfig for this server into a folder, with the token in a file beside it if there is one.
    pub fn kubeconfig(&self, folder: &Path, token: Option<&str>) -> PathBuf {
        let mut user = String::from("{}");
        if let Some(token) = token {
            std::fs::write(folder.join("token"), token).expect("write the token");
            user = format!("{{tokenFile: {}}}", folder.join("token").display());
        }
        let mut cluster = format!("server: {}", self.url());
        if let Some(authority) = &self.authority {
            std::fs::write(folder.join("ca.crt"), authority.pem()).expect("write the authority");
            cluster += &format!(", certificate-authority: {}", folder.join("ca.crt").display());
        }
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: test\ncontexts:\n- {{name: test, context: {{cluster: test, user: test}}}}\n\
             clusters:\n- {{name: test, cluster: {{{cluster}}}}}\nusers:\n- {{name: test, user: {user}}}\n"
        );
        let path = folder.join("kubeconfig");
        std::fs::write(&path, text).expect("write the kubeconfig");
        path
    }

    /// Closes the port and cuts all connections. The objects stay.
    pub fn stop(&self) {
        let (done, wait) = mpsc::channel();
        self.order(Command::Stop(done));
        wait.recv().expect("the server's thread");
    }

    /// Listens at the same port again.
    pub fn start_again(&self) {
        let (done, wait) = mpsc::channel();
        self.order(Command::Start(done));
        wait.recv().expect("the server's thread").unwrap_or_else(|e| panic!("listen at {}: {e}", self.address));
    }

    fn order(&self, command: Command) {
        let sent = self.commands.as_ref().map(|c| c.send(command));
        assert!(matches!(sent, Some(Ok(()))), "the server's thread has ended");
    }

    /// Cuts the open watches of a resource (by plural), or all if it is empty, in the middle.
    pub fn cut_watches(&self, plural: &str) {
        self.shared.cut.send_modify(|(n, which)| (*n, *which) = (*n + 1, plural.to_owned()));
    }

    pub fn set_groups(&self, groups: Groups) {
        self.shared.lock().settings.groups = groups;
    }

    /// Only these bearer tokens are accepted from now on.
    pub fn set_tokens(&self, tokens: &[&str]) {
        self.shared.lock().settings.tokens = Some(tokens.iter().map(|t| (*t).to_owned()).collect());
    }

    /// 403 for everything about a resource.
    pub fn forbid(&self, plural: &str) {
        self.shared.lock().settings.forbidden.insert(plural.into());
    }

    pub fn allow(&self, plural: &str) {
        self.shared.lock().settings.forbidden.remove(plural);
    }

    /// Without them the server is as one before Kubernetes 1.32.
    pub fn set_streaming_lists(&self, on: bool) {
        self.shared.lock().settings.streaming_lists = on;
    }

    /// Watches get a bookmark after this time without an event.
    pub fn set_bookmarks(&self, every: Duration) {
        self.shared.lock().settings.bookmark_every = Some(every);
        self.shared.changed.send_modify(|_| {});
    }

    /// The next requests of this kind go wrong, `times` of them. An empty plural means any resource.
    pub fn fault(&self, verb: Verb, plural: &str, times: u32, fault: Fault) {
        self.shared.lock().faults.add(verb, plural, times, fault);
    }

    pub fn clear_faults(&self) {
        self.shared.lock().faults.clear();
    }

    /// How many requests of this kind there were since the start.
    pub fn count(&self, verb: Verb, plural: &str) -> u64 {
        self.shared.lock().faults.count(verb, plural)
    }

    /// All requests since the start, by verb and plural.
    pub fn counts(&self) -> BTreeMap<(Verb, String), u64> {
        self.shared.lock().faults.counts()
    }

    /// Watches open now.
    pub fn open_watches(&self, plural: &str) -> usize {
        self.shared.lock().open.get(plural).copied().unwrap_or(0)
    }

    pub fn revision(&self) -> u64 {
        self.shared.lock().state.revision
    }

    /// Goes back to an earlier revision number, as a restored backup does.
    pub fn set_revision(&self, revision: u64) {
        let mut inner = self.shared.lock();
        inner.state.compact();
        (inner.state.revision, inner.state.oldest) = (revision, 0);
    }

    /// Forgets all history: a watch from before now is answered with 410.
    pub fn compact(&self) {
        self.shared.lock().state.compact();
    }

    /// Writes an object as another client would, whatever is there; it may be wrong in any way. Panics if its
    /// apiVersion and kind are not served.
    pub fn put(&self, object: Value) {
        let resource = Resource::of(&object).unwrap_or_else(|| panic!("{} {} is not served", object["apiVersion"], object["kind"]));
        self.shared.edit(|s| s.put(resource, object));
    }

    /// The same for many, in one step.
    pub fn put_all(&self, objects: impl IntoIterator<Item = Value>) {
        self.shared.edit(|s| {
            for object in objects {
                let resource = Resource::of(&object).expect("an object that is served");
                s.put(resource, object);
            }
        });
    }

    /// Deletes an object; whether there was one.
    pub fn remove(&self, api_version: &str, plural: &str, namespace: &str, name: &str) -> bool {
        let resource = Resource::find(api_version, plural).expect("a resource that is served");
        self.shared.edit(|s| s.remove(resource, namespace, name)).is_some()
    }

    pub fn get(&self, api_version: &str, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        let resource = Resource::find(api_version, plural).expect("a resource that is served");
        self.shared.lock().state.get(resource, namespace, name).ok().map(|o| o.value())
    }

    pub fn all(&self, api_version: &str, plural: &str) -> Vec<Value> {
        let resource = Resource::find(api_version, plural).expect("a resource that is served");
        self.shared.lock().state.select(resource, &Selector::default()).iter().map(|o| o.value()).collect()
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        // The thread ends with the channel.
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The server's thread: listens, or does not, as ordered.
fn keep(
    address: SocketAddr,
    tls: Option<tokio_rustls::TlsAcceptor>,
    shared: Arc<Shared>,
    mut orders: tokio::sync::mpsc::UnboundedReceiver<Command>,
    bound: &Sender<std::io::Result<SocketAddr>>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let listener = match tokio::net::TcpListener::bind(address).await {
            Ok(l) => l,
            Err(e) => return drop(bound.send(Err(e))),
        };
        let address = listener.local_addr().expect("the address of a listener");
        let _ = bound.send(Ok(address));
        let serve = |listener| tokio::spawn(serve::serve(listener, tls.clone(), shared.clone()));
        let mut running = Some(serve(listener));
        while let Some(order) = orders.recv().await {
            match order {
                Command::Stop(done) => {
                    if let Some(task) = running.take() {
                        task.abort();
                        let _ = task.await;
                    }
                    let _ = done.send(());
                }
                Command::Start(done) => {
                    let listening = tokio::net::TcpListener::bind(address).await;
                    let _ = done.send(listening.map(|l| running = Some(serve(l))));
                }
            }
        }
    });
}
