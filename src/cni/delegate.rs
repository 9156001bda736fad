//! Other plugins, run as the specification has it for delegation: same environment, same configuration.

use super::error::{CniError, io};
use super::result::Attachment;
use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Runs a plugin of CNI_PATH with a command and returns what it printed; `Null` for nothing.
pub fn run(plugin: &str, path: &str, command: &str, conf: &Value) -> Result<Value, CniError> {
    let program = find(plugin, path)?;
    let fault = || io(format!("run {}", program.display()));
    let mut child = Command::new(&program)
        .env("CNI_COMMAND", command)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(fault())?;
    if let Some(mut stdin) = child.stdin.take() {
        match stdin.write_all(conf.to_string().as_bytes()) {
            // It may have answered without reading everything.
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => {}
            done => done.map_err(fault())?,
        }
    }
    let out = child.wait_with_output().map_err(fault())?;
    let answer = serde_json::from_slice(&out.stdout);
    if out.status.success() {
        return match answer {
            _ if out.stdout.trim_ascii().is_empty() => Ok(Value::Null),
            Ok(v) => Ok(v),
            Err(e) => Err(CniError::Decode { what: format!("output of plugin {plugin}"), fault: e.to_string() }),
        };
    }
    let answer: Value = answer.unwrap_or_default();
    let text = |key: &str| answer[key].as_str().unwrap_or_default().to_owned();
    let message = Some(text("msg")).filter(|m| !m.is_empty()).unwrap_or_else(|| format!("ended with {}", out.status));
    let code = answer["code"].as_u64().and_then(|c| u32::try_from(c).ok()).filter(|c| *c > 0).unwrap_or(100);
    Err(CniError::Plugin { plugin: plugin.into(), code, message, details: text("details") })
}

/// The addresses that an address plugin gives.
pub fn addresses(plugin: &str, path: &str, conf: &Value) -> Result<Attachment, CniError> {
    let what = format!("result of plugin {plugin}");
    let given = Attachment::from_json(&run(plugin, path, "ADD", conf)?, &what)?;
    if given.addresses.is_empty() {
        return Err(CniError::Decode { what, fault: "ips: there are none".into() });
    }
    Ok(given)
}

fn find(plugin: &str, path: &str) -> Result<PathBuf, CniError> {
    let here = path.split(':').filter(|p| !p.is_empty()).map(|p| Path::new(p).join(plugin)).find(|p| p.is_file());
    here.ok_or_else(|| CniError::NoPlugin { plugin: plugin.into(), path: path.into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::os::unix::fs::PermissionsExt;

    fn plugin(script: &str) -> (tempfile::TempDir, String) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("p");
        std::fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        let path = format!("/nonexistent:{}", dir.path().display());
        (dir, path)
    }

    /// Runs it, again while a child of another test that is being started holds the script open for writing.
    fn run_again(path: &str, command: &str, conf: &Value) -> Result<Value, CniError> {
        loop {
            match run("p", path, command, conf) {
                Err(CniError::Io { source, .. }) if source.raw_os_error() == Some(libc::ETXTBSY) => {}
                other => return other,
            }
        }
    }

    #[test]
    fn the_command_and_the_configuration_arrive() {
        let (_dir, path) = plugin(r#"read conf; printf '{"command":"%s","conf":%s}' "$CNI_COMMAND" "$conf""#);
        assert_eq!(run_again(&path, "ADD", &json!({ "a": 1 })).unwrap(), json!({ "command": "ADD", "conf": { "a": 1 } }));
        let (_dir, path) = plugin("exit 0");
        assert_eq!(run_again(&path, "DEL", &json!({ "a": "x".repeat(1 << 20) })).unwrap(), Value::Null);
    }

    #[test]
    fn errors_keep_their_code() {
        let (_dir, path) = plugin(r#"echo '{"code":11,"msg":"no room","details":"d"}'; exit 1"#);
        let e = run_again(&path, "ADD", &json!({})).unwrap_err();
        assert_eq!((e.code(), e.to_string().as_str()), (11, "plugin p: no room"));
        let (_dir, path) = plugin("exit 3");
        let e = run_again(&path, "ADD", &json!({})).unwrap_err();
        assert!(e.code() == 100 && e.to_string().contains("exit status: 3"), "{e}");
        let (_dir, path) = plugin("echo no json");
        assert_eq!(run_again(&path, "ADD", &json!({})).unwrap_err().code(), 6);
        assert_eq!(run("q", &path, "ADD", &json!({})).unwrap_err().code(), 5);
    }
}
