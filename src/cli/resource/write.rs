//! What the writing verbs say at the end, in calicoctl's words.

use crate::cli::{Outcome, print};
use crate::control::resources::Kind;
use std::process::ExitCode;

/// A verb's forms.
pub struct Words {
    verb: &'static str,
    done: &'static str,
}

pub const CREATE: Words = Words { verb: "create", done: "created" };
pub const APPLY: Words = Words { verb: "apply", done: "applied" };
pub const REPLACE: Words = Words { verb: "replace", done: "replaced" };

/// `'IPPool' ` if all are of one kind.
fn quoted(kinds: &[Kind]) -> String {
    match kinds {
        [first, rest @ ..] if rest.iter().all(|k| k == first) => format!("'{first}' "),
        _ => String::new(),
    }
}

/// Errors as Go prints a slice of them.
fn list(errors: &[String]) -> String {
    format!("[{}]", errors.join(" "))
}

pub fn report(words: &Words, kinds: &[Kind], errors: &[String]) -> Outcome {
    let (total, handled, kind) = (kinds.len(), kinds.len() - errors.len(), quoted(kinds));
    if errors.is_empty() {
        print(&format!("Successfully {} {handled} {kind}resource(s)\n", words.done))?;
        return Ok(ExitCode::SUCCESS);
    }
    if handled == 0 {
        let what = if total == 1 { format!("{kind}resource") } else { format!("any {kind}resources") };
        return Err(format!("Failed to {} {what}: {}", words.verb, list(errors)).into());
    }
    print(&format!("Partial success: {} {handled} out of {total} {kind}resources\n", words.done))?;
    Err(format!("Hit error(s): {}", list(errors)).into())
}

pub fn deleted(kinds: &[Kind], errors: &[String]) -> Outcome {
    let (handled, kind) = (kinds.len() - errors.len(), quoted(kinds));
    if handled > 0 {
        print(&format!("Successfully deleted {handled} {kind}resource(s)\n"))?;
    }
    if errors.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let lines: Vec<String> = errors.iter().map(|e| format!("Failed to delete {kind}resource: {e}")).collect();
    Err(lines.join("\n").into())
}
