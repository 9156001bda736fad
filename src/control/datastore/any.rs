//! Which datastore the tools speak to, chosen as calicoctl chooses, and its objects whichever it is.

use super::OpenError;
use super::kubernetes::{KubeObjects, Source};
use super::manifests::FolderObjects;
use super::objects::{Access, Id, Objects, Preconditions, Resource};
use crate::control::config::{Config, ConfigError, DEFAULT_PATH, Datastore};
use crate::control::resources::Keeps;
use crate::control::yaml::{self, Field, FieldError, SyntaxError};
use serde_json::Value;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// calicoctl's own configuration.
const CALICOCTL: &str = "/etc/calico/calicoctl.cfg";

/// A datastore by its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Folder(PathBuf),
    Kubernetes(Source),
}

/// Why no datastore could be chosen.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    #[error("cannot read the configuration {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}:{}: not YAML: {source}", path.display(), source.line)]
    Syntax { path: PathBuf, source: SyntaxError },
    #[error("{}:{}: {source}", path.display(), source.line)]
    Field { path: PathBuf, source: FieldError },
    #[error(transparent)]
    Daemon(#[from] ConfigError),
    #[error("datastore type {kind} ({origin}) is not supported: use kubernetes, or file with TORTIE_DATASTORE_PATH")]
    Type { kind: String, origin: String },
    #[error("datastore type file: set TORTIE_DATASTORE_PATH to the folder of manifests")]
    NoPath,
    #[error("--context {context}: contexts are a kubeconfig's, and the datastore is {place}")]
    Context { context: String, place: String },
    #[error(
        "no datastore is configured: give --config FILE (the node's configuration or calicoctl's), or set KUBECONFIG, or \
         DATASTORE_TYPE=file with TORTIE_DATASTORE_PATH; neither {CALICOCTL} nor {DEFAULT_PATH} is there"
    )]
    Nothing,
}

/// Environment variables by name.
type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

impl Place {
    /// From a configuration file that is named, else calicoctl's own file, else the environment, else the node's file.
    pub fn find(config: Option<&Path>, environment: Environment) -> Result<Place, PlaceError> {
        let variable = |name: &str| environment(name).filter(|v| !v.is_empty());
        if let Some(path) = config {
            return Place::of_file(path, &variable);
        }
        if Path::new(CALICOCTL).exists() {
            return Place::of_file(Path::new(CALICOCTL), &variable);
        }
        let by_path = variable("TORTIE_DATASTORE_PATH").map(|_| "file".to_owned());
        let by_client = ["KUBECONFIG", "KUBERNETES_SERVICE_HOST"].iter().find_map(|v| variable(v)).map(|_| "kubernetes".to_owned());
        let kind = variable("DATASTORE_TYPE").or_else(|| variable("CALICO_DATASTORE_TYPE")).or(by_path).or(by_client);
        match kind {
            Some(kind) => Place::of_kind(&kind, "DATASTORE_TYPE", None, &variable),
            None if Path::new(DEFAULT_PATH).exists() => Place::of_file(Path::new(DEFAULT_PATH), &variable),
            None => home_kubeconfig(&variable).map(|p| Place::Kubernetes(Source::Kubeconfig(p))).ok_or(PlaceError::Nothing),
        }
    }

    /// The same by another context of its kubeconfig.
    pub fn in_context(self, context: &str) -> Result<Place, PlaceError> {
        let place = match self {
            Place::Kubernetes(Source::Kubeconfig(path) | Source::Context(path, _)) => {
                return Ok(Place::Kubernetes(Source::Context(path, context.to_owned())));
            }
            Place::Kubernetes(Source::InCluster) => "the cluster that this is a pod of".into(),
            Place::Folder(path) => format!("the folder {}", path.display()),
        };
        Err(PlaceError::Context { context: context.to_owned(), place })
    }

    fn of_file(path: &Path, variable: Environment) -> Result<Place, PlaceError> {
        let text = fs::read_to_string(path).map_err(|source| PlaceError::Read { path: path.into(), source })?;
        let documents = yaml::documents(&text).map_err(|source| PlaceError::Syntax { path: path.into(), source })?;
        let field = |source| PlaceError::Field { path: path.into(), source };
        let calicoctl = documents.first().map(Field::root).filter(|root| root.get("kind").is_ok_and(|k| k.is_present()));
        let Some(root) = calicoctl else {
            let config = Config::load(path, &crate::control::env::Environment::of_process())?;
            return Ok(Place::of_daemon(&config.datastore));
        };
        root.get("kind").and_then(|k| k.one_of(&[("CalicoAPIConfig", ())])).map_err(field)?;
        let spec = root.get("spec").map_err(field)?;
        let text = |key: &str| spec.get(key).and_then(|f| f.text()).map(|t| t.filter(|t| !t.is_empty()).map(str::to_owned)).map_err(field);
        let kind = text("datastoreType")?.unwrap_or_else(|| "kubernetes".into());
        Place::of_kind(&kind, &path.display().to_string(), text("kubeconfig")?, variable)
    }

    fn of_daemon(datastore: &Datastore) -> Place {
        match datastore {
            Datastore::File { path } => Place::Folder(path.clone()),
            Datastore::Kubernetes { kubeconfig } => Place::Kubernetes(Source::new(kubeconfig.as_deref())),
        }
    }

    fn of_kind(kind: &str, origin: &str, kubeconfig: Option<String>, variable: Environment) -> Result<Place, PlaceError> {
        match kind {
            "file" => variable("TORTIE_DATASTORE_PATH").map(|p| Place::Folder(p.into())).ok_or(PlaceError::NoPath),
            "kubernetes" => {
                let named = kubeconfig.or_else(|| variable("CALICO_KUBECONFIG")).or_else(|| variable("KUBECONFIG"));
                // A list of files: the first that is there.
                let file = named.as_deref().map(|all| all.split(':').find(|p| Path::new(p).exists()).unwrap_or(all));
                let source = match file {
                    Some(file) => Source::Kubeconfig(file.into()),
                    None if variable("KUBERNETES_SERVICE_HOST").is_some() => Source::InCluster,
                    None => Source::Kubeconfig(home_kubeconfig(variable).ok_or(PlaceError::Nothing)?),
                };
                Ok(Place::Kubernetes(source))
            }
            other => Err(PlaceError::Type { kind: other.to_owned(), origin: origin.to_owned() }),
        }
    }

    pub async fn open(&self) -> Result<AnyObjects, OpenError> {
        match self {
            Place::Folder(path) if !path.exists() => Err(OpenError::Missing { path: path.clone() }),
            Place::Folder(path) if !path.is_dir() => Err(OpenError::NotAFolder { path: path.clone() }),
            Place::Folder(path) => Ok(AnyObjects::Folder(FolderObjects::new(path))),
            Place::Kubernetes(source) => Ok(AnyObjects::Kubernetes(Box::new(KubeObjects::open(source.clone()).await?))),
        }
    }
}

fn home_kubeconfig(variable: Environment) -> Option<PathBuf> {
    let path = PathBuf::from(variable("HOME")?).join(".kube/config");
    path.exists().then_some(path)
}

/// The objects of either datastore.
pub enum AnyObjects {
    Folder(FolderObjects),
    Kubernetes(Box<KubeObjects>),
}

impl AnyObjects {
    /// In which form it has nodes and workload endpoints.
    pub fn keeps(&self) -> Keeps {
        match self {
            AnyObjects::Folder(_) => Keeps::Both,
            AnyObjects::Kubernetes(_) => Keeps::CoreOnly,
        }
    }
}

/// The same call on whichever it is.
macro_rules! either {
    ($self:ident, $objects:ident => $call:expr) => {
        match $self {
            AnyObjects::Folder($objects) => $call.await,
            AnyObjects::Kubernetes($objects) => $call.await,
        }
    };
}

impl Objects for AnyObjects {
    async fn get(&self, id: &Id) -> Access<Option<Value>> {
        either!(self, o => o.get(id))
    }

    async fn list(&self, resource: Resource, namespace: Option<&str>) -> Access<Vec<Value>> {
        either!(self, o => o.list(resource, namespace))
    }

    async fn list_labelled(&self, resource: Resource, labels: &[(&str, &str)]) -> Access<Vec<Value>> {
        either!(self, o => o.list_labelled(resource, labels))
    }

    async fn create(&self, resource: Resource, object: Value) -> Access<Value> {
        either!(self, o => o.create(resource, object))
    }

    async fn update(&self, resource: Resource, object: Value) -> Access<Value> {
        either!(self, o => o.update(resource, object))
    }

    async fn patch(&self, id: &Id, patch: Value) -> Access<Value> {
        either!(self, o => o.patch(id, patch))
    }

    async fn patch_status(&self, id: &Id, patch: Value) -> Access<Value> {
        either!(self, o => o.patch_status(id, patch))
    }

    async fn delete(&self, id: &Id, preconditions: &Preconditions) -> Access<()> {
        either!(self, o => o.delete(id, preconditions))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn find(config: Option<&Path>, variables: &[(&str, &str)]) -> Result<Place, String> {
        let all: BTreeMap<&str, &str> = variables.iter().copied().collect();
        Place::find(config, &|name| all.get(name).map(|v| (*v).to_owned())).map_err(|e| e.to_string())
    }

    fn kubeconfig(path: &str) -> Result<Place, String> {
        Ok(Place::Kubernetes(Source::Kubeconfig(path.into())))
    }

    #[test]
    fn the_environment_chooses() {
        let folder = Ok(Place::Folder("/m".into()));
        assert_eq!(find(None, &[("DATASTORE_TYPE", "file"), ("TORTIE_DATASTORE_PATH", "/m"), ("KUBECONFIG", "/k")]), folder);
        assert_eq!(find(None, &[("TORTIE_DATASTORE_PATH", "/m")]), folder);
        assert_eq!(
            find(None, &[("DATASTORE_TYPE", "kubernetes"), ("KUBECONFIG", "/nowhere/a:/etc/hostname")]),
            kubeconfig("/etc/hostname")
        );
        assert_eq!(find(None, &[("KUBECONFIG", "/nowhere/a")]), kubeconfig("/nowhere/a"));
        assert_eq!(find(None, &[("KUBERNETES_SERVICE_HOST", "10.96.0.1")]), Ok(Place::Kubernetes(Source::InCluster)));
        let e = find(None, &[("DATASTORE_TYPE", "etcdv3")]).unwrap_err();
        assert_eq!(e, "datastore type etcdv3 (DATASTORE_TYPE) is not supported: use kubernetes, or file with TORTIE_DATASTORE_PATH");
        assert!(find(None, &[("DATASTORE_TYPE", "file")]).unwrap_err().contains("set TORTIE_DATASTORE_PATH"));
        assert!(find(None, &[]).unwrap_err().starts_with("no datastore is configured: give --config FILE"));
    }

    #[test]
    fn a_file_chooses_before_the_environment() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let calicoctl = write(
            "a",
            "apiVersion: projectcalico.org/v3\nkind: CalicoAPIConfig\nmetadata:\nspec:\n  datastoreType: \"kubernetes\"\n  kubeconfig: \"/root/.kube/config\"\n",
        );
        assert_eq!(find(Some(&calicoctl), &[("KUBECONFIG", "/k")]), kubeconfig("/root/.kube/config"));
        let daemon = write("b", "node: a\ndatastore: {path: manifests}\nuplink: {interface: eth0}\n");
        assert_eq!(find(Some(&daemon), &[]), Ok(Place::Folder(folder.path().join("manifests"))));
        let etcd = write("c", "kind: CalicoAPIConfig\nspec: {datastoreType: etcdv3}\n");
        assert!(find(Some(&etcd), &[]).unwrap_err().starts_with("datastore type etcdv3 ("));
        let other = write("d", "apiVersion: v1\nkind: Pod\n");
        assert!(find(Some(&other), &[]).unwrap_err().contains(":2: kind: \"Pod\" is not one of CalicoAPIConfig"));
        assert!(find(Some(Path::new("/nonexistent")), &[]).unwrap_err().starts_with("cannot read the configuration /nonexistent"));
    }
}
