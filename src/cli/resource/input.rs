//! Resources from files and standard input: several documents, lists, folders. Everything is checked before anything
//! is sent.

use super::Files;
use crate::control::resources::{API_VERSION, Kind, schema};
use crate::control::yaml::{self, Field, FieldError, Value};
use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// A resource that was read.
pub struct Document {
    pub kind: Kind,
    pub object: serde_json::Value,
    file: String,
    line: u32,
}

/// What a resource is called; a kind without a name is all of them.
pub struct Named {
    pub kind: Kind,
    pub namespace: Option<String>,
    pub name: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum InputError {
    #[error("Failed to execute command: open {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("Failed to execute command: {file}:{line}: not YAML: {message}")]
    Syntax { file: String, line: u32, message: String },
    #[error("Failed to execute command: {file}:{}: {source}", source.line)]
    Field { file: String, source: FieldError },
    #[error("Failed to execute command: {file}:{line}: Unknown resource type ({kind}) and/or version ({version}); {remedy}")]
    Unknown { file: String, line: u32, kind: String, version: String, remedy: String },
    #[error("Failed to execute command: {}", all.join("\n"))]
    Invalid { all: Vec<String> },
    #[error("No resources specified in file {0}")]
    EmptyFile(String),
    #[error("No resources specified in directory {0}")]
    EmptyFolder(String),
    #[error("{object}: resource namespace does not match client namespace. {own} != {given}")]
    OtherNamespace { object: String, own: String, given: String },
    #[error("{object}: namespace should not be specified for a non-namespaced resource. {kind} is not a namespaced resource")]
    NoNamespace { object: String, kind: Kind },
}

impl Document {
    pub fn named(&self) -> Named {
        let text = |key: &str| self.object["metadata"][key].as_str().map(str::to_owned);
        Named { kind: self.kind, namespace: text("namespace").filter(|_| self.kind.is_namespaced()), name: text("name") }
    }

    /// `FILE:LINE: ` for messages.
    pub fn place(&self) -> String {
        format!("{}:{}: ", self.file, self.line)
    }

    fn display(&self) -> String {
        let named = self.named();
        self.kind.display(named.namespace.as_deref(), named.name.as_deref().unwrap_or_default())
    }
}

/// All resources of the files, with their namespaces filled in.
pub fn documents(files: &Files, namespace: Option<&str>) -> Result<Vec<Document>, InputError> {
    let (mut out, mut faults) = (Vec::new(), Vec::new());
    for path in &files.filename {
        let before = out.len();
        if path.is_dir() {
            for file in manifests(path, files.recursive)? {
                read(&file, files, &mut out, &mut faults)?;
            }
            if out.len() == before && faults.is_empty() && !files.skip_empty {
                return Err(InputError::EmptyFolder(path.display().to_string()));
            }
        } else {
            read(path, files, &mut out, &mut faults)?;
        }
    }
    if !faults.is_empty() {
        return Err(InputError::Invalid { all: faults });
    }
    out.iter_mut().try_for_each(|d| in_namespace(d, namespace))?;
    Ok(out)
}

fn manifests(folder: &Path, recursive: bool) -> Result<Vec<PathBuf>, InputError> {
    let fault = |source| InputError::Read { path: folder.into(), source };
    let mut out = Vec::new();
    let entries: BTreeSet<PathBuf> =
        fs::read_dir(folder).map_err(fault)?.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>().map_err(fault)?;
    for path in entries {
        if path.is_dir() {
            if recursive {
                out.extend(manifests(&path, true)?);
            }
        } else if path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json") {
            out.push(path);
        }
    }
    Ok(out)
}

fn read(path: &Path, files: &Files, out: &mut Vec<Document>, faults: &mut Vec<String>) -> Result<(), InputError> {
    let stdin = path == Path::new("-");
    let file = if stdin { "standard input".to_owned() } else { path.display().to_string() };
    let mut text = String::new();
    let result = if stdin { io::stdin().read_to_string(&mut text).map(drop) } else { fs::read_to_string(path).map(|t| text = t) };
    result.map_err(|source| InputError::Read { path: path.into(), source })?;
    let before = out.len() + faults.len();
    let parsed = yaml::documents(&text).map_err(|e| InputError::Syntax { file: file.clone(), line: e.line, message: e.message })?;
    for document in &parsed {
        let field = |source| InputError::Field { file: file.clone(), source };
        for object in objects(document).map_err(field)? {
            take(&object, &file, out, faults)?;
        }
    }
    if out.len() + faults.len() == before && !files.skip_empty {
        return Err(InputError::EmptyFile(file));
    }
    Ok(())
}

/// The document itself, or the items of a list.
fn objects(document: &Value) -> Result<Vec<Value>, FieldError> {
    if let Some(items) = document.sequence() {
        return Ok(items.to_vec());
    }
    let root = Field::root(document);
    let kind = root.get("kind")?;
    let is_list = kind.scalar().is_some_and(|k| k == "List" || k.strip_suffix("List").is_some_and(|k| Kind::of_document(k).is_some()));
    if !is_list {
        return Ok(vec![document.clone()]);
    }
    Ok(root.get("items")?.values()?.to_vec())
}

fn take(object: &Value, file: &str, out: &mut Vec<Document>, faults: &mut Vec<String>) -> Result<(), InputError> {
    let root = Field::root(object);
    let text = |key: &str| root.get(key).and_then(|f| f.required_text().map(str::to_owned));
    let field = |source| InputError::Field { file: file.to_owned(), source };
    let (version, name) = (text("apiVersion").map_err(field)?, text("kind").map_err(field)?);
    let Some(kind) = Kind::of_document(&name).filter(|_| version == API_VERSION) else {
        let known = Kind::of_document(&name).is_some();
        let remedy =
            if known { format!("use apiVersion {API_VERSION}") } else { format!("known are {}", Kind::ALL.map(Kind::name).join(", ")) };
        return Err(InputError::Unknown { file: file.to_owned(), line: root.line(), kind: name, version, remedy });
    };
    let document = Document { kind, object: object.to_json(), file: file.to_owned(), line: root.line() };
    let found = schema::check(kind, object);
    if found.is_empty() {
        out.push(document);
    } else {
        let line = found.iter().map(|f| f.line).find(|l| *l > 0).unwrap_or(document.line);
        faults.push(format!("{file}:{line}: {}: {}", document.display(), schema::join(&found)));
    }
    Ok(())
}

/// The namespace: the object's own, the command line's, or `default`.
fn in_namespace(d: &mut Document, given: Option<&str>) -> Result<(), InputError> {
    let own = d.object["metadata"]["namespace"].as_str().filter(|n| !n.is_empty()).map(str::to_owned);
    let (object, kind) = (d.display(), d.kind);
    match (kind.is_namespaced(), own, given) {
        (false, Some(_), _) | (false, None, Some(_)) => Err(InputError::NoNamespace { object, kind }),
        (false, None, None) => Ok(()),
        (true, Some(own), Some(given)) if own != given => Err(InputError::OtherNamespace { object, own, given: given.to_owned() }),
        (true, own, given) => {
            let namespace = own.as_deref().or(given).unwrap_or("default");
            d.object["metadata"]["namespace"] = namespace.into();
            Ok(())
        }
    }
}
