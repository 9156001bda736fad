//! What a user wants changed in a stored object, in the three forms that calicoctl and kubectl know.

use crate::control::datastore::objects::merge;
use serde_json::{Map, Value};

/// A change.
#[derive(Clone, Debug)]
pub enum Patch {
    /// A JSON merge patch (RFC 7386).
    Merge(Value),
    /// A merge patch with Kubernetes' directive `$patch`. No list of Calico's kinds has a merge key, so a list replaces
    /// the stored one here, too.
    Strategic(Value),
    /// Operations (RFC 6902).
    Json(json_patch::Patch),
}

/// The directive of a strategic merge patch, and what begins all of them.
const DIRECTIVE: &str = "$patch";
const SIGIL: char = '$';

impl Patch {
    /// Reads a patch of a type: `strategic`, `json` or `merge`. The error says what is wrong with it.
    pub fn read(form: &str, text: &str) -> Result<Patch, String> {
        let value: Value = serde_json::from_str(text).map_err(|e| format!("the patch is not JSON: {e}"))?;
        if form == "json" {
            let operations = serde_json::from_value(value);
            return operations.map(Patch::Json).map_err(|e| {
                format!(
                    "the patch is no list of operations, like [{{\"op\":\"replace\",\"path\":\"/spec/natOutgoing\",\"value\":true}}]: {e}"
                )
            });
        }
        if !value.is_object() {
            return Err(format!("the patch is not a JSON object but {value}; it names fields, like {{\"spec\":{{}}}}"));
        }
        if form == "merge" {
            return Ok(Patch::Merge(value));
        }
        check_directives(&value)?;
        Ok(Patch::Strategic(value))
    }

    /// Changes an object. The error says which part could not be changed.
    pub fn apply(&self, object: &mut Value) -> Result<(), String> {
        match self {
            Patch::Merge(patch) => merge(object, patch),
            Patch::Strategic(patch) => merge_strategic(object, patch),
            Patch::Json(operations) => return json_patch::patch(object, operations).map_err(|e| e.to_string()),
        }
        Ok(())
    }
}

fn check_directives(patch: &Value) -> Result<(), String> {
    let Value::Object(fields) = patch else { return Ok(()) };
    for (key, value) in fields {
        match (key.as_str(), value.as_str()) {
            (DIRECTIVE, Some("replace" | "delete" | "merge")) => {}
            (DIRECTIVE, _) => return Err(format!("{DIRECTIVE}: {value} is not one of replace, merge, delete")),
            (key, _) if key.starts_with(SIGIL) => {
                return Err(format!(
                    "{key}: only the directive {DIRECTIVE} is supported, as no list here has a merge key; --type=json changes single elements"
                ));
            }
            _ => check_directives(value)?,
        }
    }
    Ok(())
}

fn merge_strategic(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    let directive = fields.get(DIRECTIVE).and_then(Value::as_str);
    if directive.is_some_and(|d| d != "merge") || !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else { return };
    if directive == Some("delete") {
        return;
    }
    for (key, value) in fields.iter().filter(|(key, _)| *key != DIRECTIVE) {
        let deleted = value.is_null() || value.get(DIRECTIVE).is_some_and(|d| d == "delete");
        if deleted {
            target.remove(key);
        } else {
            merge_strategic(target.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn patched(form: &str, patch: Value) -> Result<Value, String> {
        let mut object = json!({"spec": {"a": 1, "list": [1, 2], "inner": {"x": 1, "y": 2}}});
        Patch::read(form, &patch.to_string())?.apply(&mut object).map(|()| object)
    }

    #[test]
    fn three_forms() {
        let merged = json!({"spec": {"a": 2, "list": [3], "inner": {"x": 1}}});
        let fields = json!({"spec": {"a": 2, "list": [3], "inner": {"y": null}}});
        assert_eq!(patched("merge", fields.clone()), Ok(merged.clone()));
        assert_eq!(patched("strategic", fields), Ok(merged));
        let operations = json!([
            {"op": "test", "path": "/spec/a", "value": 1},
            {"op": "add", "path": "/spec/list/-", "value": 3},
            {"op": "remove", "path": "/spec/inner/x"},
        ]);
        assert_eq!(patched("json", operations), Ok(json!({"spec": {"a": 1, "list": [1, 2, 3], "inner": {"y": 2}}})));
    }

    #[test]
    fn directives_of_a_strategic_patch() {
        let with = |inner: Value| patched("strategic", json!({"spec": {"inner": inner}})).map(|o| o["spec"].get("inner").cloned());
        assert_eq!(with(json!({"$patch": "replace", "z": 3})), Ok(Some(json!({"z": 3}))));
        assert_eq!(with(json!({"$patch": "merge", "z": 3})), Ok(Some(json!({"x": 1, "y": 2, "z": 3}))));
        assert_eq!(with(json!({"$patch": "delete"})), Ok(None));
        assert!(with(json!({"$patch": "fold"})).unwrap_err().contains("\"fold\" is not one of replace, merge, delete"));
        assert!(with(json!({"$setElementOrder/list": []})).unwrap_err().contains("--type=json"));
    }

    #[test]
    fn what_cannot_be_read_or_done_is_said() {
        assert!(patched("json", json!({"spec": {}})).unwrap_err().starts_with("the patch is no list of operations"));
        assert!(patched("json", json!([{"op": "remove", "path": "/spec/none"}])).unwrap_err().contains("/0"));
        assert!(patched("merge", json!(7)).unwrap_err().starts_with("the patch is not a JSON object but 7"));
        assert!(Patch::read("merge", "{").unwrap_err().starts_with("the patch is not JSON: "));
    }
}
