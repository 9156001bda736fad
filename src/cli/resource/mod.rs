//! calicoctl's verbs on resources: `tortie get|create|apply|replace|patch|delete`.

mod columns;
mod input;
mod output;
mod write;

use super::Outcome;
use crate::control::datastore::{AnyObjects, Place};
use crate::control::resources::{self, Client, Error, Kind};
use clap::ArgAction;
use input::{Document, Named};
use serde_json::Value;
use std::path::PathBuf;
use std::process::ExitCode;

/// Where the datastore is.
#[derive(Debug, clap::Args)]
pub struct Store {
    /// The node's configuration or calicoctl's. Without it: /etc/calico/calicoctl.cfg, DATASTORE_TYPE and KUBECONFIG or
    /// TORTIE_DATASTORE_PATH, /etc/tortie/node.yaml
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Context of the kubeconfig, if not the current one
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// For scripts written for calicoctl; versions are never compared
    #[arg(long, hide = true)]
    #[allow(dead_code, reason = "taken and not needed")]
    allow_version_mismatch: bool,
}

impl Store {
    /// Opens the datastore and does `work` with it.
    pub fn with<T>(
        &self,
        work: impl AsyncFnOnce(&AnyObjects) -> Result<T, Box<dyn std::error::Error>>,
    ) -> Result<T, Box<dyn std::error::Error>> {
        let mut place = Place::find(self.config.as_deref(), &|name| std::env::var(name).ok())?;
        if let Some(context) = &self.context {
            place = place.in_context(context)?;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let objects = place.open().await?;
            work(&objects).await
        })
    }
}

#[derive(Debug, clap::Args)]
pub struct Namespace {
    /// Namespace of the resource, for kinds that have one
    #[arg(short, long, value_name = "NS")]
    namespace: Option<String>,
}

#[derive(Debug, clap::Args)]
pub struct Files {
    /// A file of resources, YAML or JSON; a folder of such files; - for standard input
    #[arg(short = 'f', long = "filename", value_name = "FILE", action = ArgAction::Append)]
    filename: Vec<PathBuf>,
    /// Folders below the folder too
    #[arg(short = 'R', long)]
    recursive: bool,
    /// Files and folders without resources are no error
    #[arg(long)]
    skip_empty: bool,
}

#[derive(Debug, clap::Args)]
pub struct Get {
    /// Kind, in any case, singular or plural or short: ippool, node, wep, gnp ...
    #[arg(required_unless_present = "filename")]
    kind: Option<String>,
    /// Names; all objects of the kind without one
    name: Vec<String>,
    #[command(flatten)]
    files: Files,
    /// Form of the output: ps, wide, yaml, json, name, custom-columns=NAME,CIDR,...
    #[arg(short, long, value_name = "FORM", default_value = "ps")]
    output: String,
    #[command(flatten)]
    namespace: Namespace,
    /// Of all namespaces
    #[arg(short = 'A', short_alias = 'a', long)]
    all_namespaces: bool,
    /// Without what belongs to this cluster (uid, resourceVersion, times); with names only
    #[arg(long)]
    export: bool,
    #[command(flatten)]
    store: Store,
}

#[derive(Debug, clap::Args)]
pub struct Write {
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    namespace: Namespace,
    #[command(flatten)]
    store: Store,
}

#[derive(Debug, clap::Args)]
pub struct Create {
    #[command(flatten)]
    write: Write,
    /// Resources that exist already count as created
    #[arg(long)]
    skip_exists: bool,
}

#[derive(Debug, clap::Args)]
pub struct Patch {
    /// Kind, as for get
    kind: String,
    name: String,
    /// What to change: '{"spec":{"natOutgoing":true}}', or operations for --type=json
    #[arg(short, long, value_name = "JSON")]
    patch: String,
    /// Type of the patch: strategic merge, JSON operations (RFC 6902) or JSON merge (RFC 7386)
    #[arg(short = 't', long = "type", value_name = "TYPE", default_value = "strategic", value_parser = ["strategic", "json", "merge"])]
    form: String,
    #[command(flatten)]
    namespace: Namespace,
    #[command(flatten)]
    store: Store,
}

#[derive(Debug, clap::Args)]
pub struct Delete {
    /// Kind, as for get
    #[arg(required_unless_present = "filename")]
    kind: Option<String>,
    #[arg(required_unless_present = "filename")]
    name: Vec<String>,
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    namespace: Namespace,
    /// Resources that do not exist count as deleted
    #[arg(short, long)]
    skip_not_exists: bool,
    #[command(flatten)]
    store: Store,
}

/// What a get or delete is about: named on the command line, or in files.
fn named(
    kind: &Option<String>,
    names: &[String],
    files: &Files,
    namespace: Option<&str>,
) -> Result<Vec<Named>, Box<dyn std::error::Error>> {
    if !files.filename.is_empty() {
        if kind.is_some() {
            return Err("give either KIND and names or -f, not both".into());
        }
        return input::documents(files, namespace)?.iter().map(|d| Ok(d.named())).collect();
    }
    let kind = find_kind(kind.as_deref().unwrap_or_default())?;
    if namespace.is_some() && !kind.is_namespaced() {
        return Err(format!("{kind} is not namespaced").into());
    }
    if names.iter().any(String::is_empty) {
        return Err("resource name may not be empty".into());
    }
    let namespace = kind.is_namespaced().then(|| namespace.unwrap_or("default").to_owned());
    let one = |name: Option<&String>| Named { kind, namespace: namespace.clone(), name: name.cloned() };
    Ok(if names.is_empty() { vec![one(None)] } else { names.iter().map(|n| one(Some(n))).collect() })
}

fn find_kind(word: &str) -> Result<Kind, String> {
    Kind::find(word).ok_or_else(|| {
        let all: Vec<String> = Kind::ALL.iter().map(|k| k.name().to_lowercase()).collect();
        format!("resource type '{word}' is not supported; known are {}", all.join(", "))
    })
}

pub fn get(args: &Get) -> Outcome {
    let form = output::Form::parse(&args.output)?;
    if args.all_namespaces && args.namespace.namespace.is_some() {
        return Err("cannot use both --namespace and --all-namespaces flags at the same time".into());
    }
    let mut wanted = named(&args.kind, &args.name, &args.files, args.namespace.namespace.as_deref())?;
    if args.all_namespaces {
        for w in &mut wanted {
            if w.name.is_some() && args.files.filename.is_empty() {
                return Err("cannot use --all-namespaces flag for getting a single resource".into());
            }
            w.namespace = w.namespace.take().filter(|_| w.name.is_some());
        }
    }
    let show_namespace = args.all_namespaces || args.namespace.namespace.is_some();
    let (text, errors) = args.store.with(async |objects| {
        let client = Client::new(objects, objects.keeps());
        let (mut found, mut errors) = (Vec::new(), Vec::new());
        for w in &wanted {
            match fetch(&client, w, args.export).await {
                Ok(part) => found.push(part),
                Err(e) => errors.push(e.to_string()),
            }
        }
        let nodes = wanted.iter().any(|w| w.kind == Kind::Node);
        let as_number = if nodes { as_number(&client).await } else { String::new() };
        let defaults = output::Context { as_number, show_namespace };
        let text = if found.is_empty() { String::new() } else { output::render(&form, &found, &defaults)? };
        Ok((text, errors))
    })?;
    super::print(&text)?;
    if errors.is_empty() { Ok(ExitCode::SUCCESS) } else { Err(errors.join("\n").into()) }
}

/// One object, or a list of them.
pub enum Found {
    One(Kind, Value),
    List(Kind, Vec<Value>),
}

async fn fetch(client: &Client<'_, AnyObjects>, wanted: &Named, export: bool) -> Result<Found, Error> {
    match &wanted.name {
        Some(name) => {
            let object = client.get(wanted.kind, wanted.namespace.as_deref(), name).await?;
            Ok(Found::One(wanted.kind, if export { exported(object) } else { object }))
        }
        None => Ok(Found::List(wanted.kind, client.list(wanted.kind, wanted.namespace.as_deref()).await?)),
    }
}

fn exported(mut object: Value) -> Value {
    if let Some(metadata) = object["metadata"].as_object_mut() {
        let cluster = ["namespace", "uid", "resourceVersion", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"];
        metadata.retain(|key, _| !cluster.contains(&key.as_str()));
    }
    object
}

/// The AS number of nodes that have none of their own.
async fn as_number(client: &Client<'_, AnyObjects>) -> String {
    match client.get(Kind::BgpConfiguration, None, "default").await {
        Ok(config) if !config["spec"]["asNumber"].is_null() => config["spec"]["asNumber"].to_string().trim_matches('"').to_owned(),
        Ok(_) | Err(Error::NotFound { .. }) => "64512".into(),
        Err(_) => "unknown".into(),
    }
}

pub fn create(args: &Create) -> Outcome {
    let skip = |e: &Error| args.skip_exists && matches!(e, Error::AlreadyExists { .. });
    write_all(&args.write, &write::CREATE, skip, async |client, d| client.create(d.kind, d.object.clone()).await)
}

pub fn apply(args: &Write) -> Outcome {
    write_all(args, &write::APPLY, |_| false, async |client, d| client.apply(d.kind, d.object.clone()).await)
}

pub fn replace(args: &Write) -> Outcome {
    write_all(args, &write::REPLACE, |_| false, async |client, d| client.update(d.kind, d.object.clone()).await)
}

fn write_all(
    args: &Write,
    words: &write::Words,
    skip: impl Fn(&Error) -> bool,
    work: impl AsyncFn(&Client<'_, AnyObjects>, &Document) -> Result<Value, Error>,
) -> Outcome {
    if args.files.filename.is_empty() {
        return Err("-f FILE is required; - reads standard input".into());
    }
    let documents = input::documents(&args.files, args.namespace.namespace.as_deref())?;
    if documents.is_empty() {
        super::print("No resources specified\n")?;
        return Ok(ExitCode::SUCCESS);
    }
    let kinds: Vec<Kind> = documents.iter().map(|d| d.kind).collect();
    let errors = args.store.with(async |objects| {
        let client = Client::new(objects, objects.keeps());
        let mut errors = Vec::new();
        for d in &documents {
            match work(&client, d).await {
                Err(e) if !skip(&e) => errors.push(format!("{}{e}", d.place())),
                _ => {}
            }
        }
        Ok(errors)
    })?;
    write::report(words, &kinds, &errors)
}

pub fn patch(args: &Patch) -> Outcome {
    let kind = find_kind(&args.kind)?;
    let patch = resources::Patch::read(&args.form, &args.patch)?;
    let namespace = kind.is_namespaced().then(|| args.namespace.namespace.as_deref().unwrap_or("default"));
    if args.namespace.namespace.is_some() && namespace.is_none() {
        return Err(format!("{kind} is not namespaced").into());
    }
    let result =
        args.store.with(async |objects| Ok(Client::new(objects, objects.keeps()).patch(kind, namespace, &args.name, &patch).await))?;
    result.map_err(|e| format!("Hit error: {e}"))?;
    super::print(&format!("Successfully patched 1 '{kind}' resource\n"))?;
    Ok(ExitCode::SUCCESS)
}

pub fn delete(args: &Delete) -> Outcome {
    let wanted = named(&args.kind, &args.name, &args.files, args.namespace.namespace.as_deref())?;
    let kinds: Vec<Kind> = wanted.iter().map(|w| w.kind).collect();
    let errors = args.store.with(async |objects| {
        let client = Client::new(objects, objects.keeps());
        let mut errors = Vec::new();
        for w in &wanted {
            let name = w.name.as_deref().unwrap_or_default();
            match client.delete(w.kind, w.namespace.as_deref(), name).await {
                Err(Error::NotFound { .. }) if args.skip_not_exists => {}
                Err(e) => errors.push(e.to_string()),
                Ok(()) => {}
            }
        }
        Ok(errors)
    })?;
    write::deleted(&kinds, &errors)
}
