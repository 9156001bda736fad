//! A folder as the datastore, and the program run on it.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use tempfile::TempDir;
use tortie::testing::apiserver::ApiServer;

pub struct Bench {
    folder: TempDir,
    /// What the program finds in its environment.
    environment: Vec<(&'static str, PathBuf)>,
}

/// What a run left.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Bench {
    /// With a datastore that holds this text.
    pub fn new(manifests: &str) -> Bench {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("datastore")).unwrap();
        let environment = vec![("DATASTORE_TYPE", PathBuf::from("file")), ("TORTIE_DATASTORE_PATH", folder.path().join("datastore"))];
        let bench = Bench { folder, environment };
        if !manifests.is_empty() {
            fs::write(bench.path("datastore/cluster.yaml"), manifests).unwrap();
        }
        bench
    }

    /// With an API server as the datastore.
    pub fn kubernetes(server: &ApiServer) -> Bench {
        let bench = Bench::new("");
        let kubeconfig = server.kubeconfig(bench.folder.path(), None);
        Bench { environment: vec![("DATASTORE_TYPE", "kubernetes".into()), ("KUBECONFIG", kubeconfig)], ..bench }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) -> String {
        fs::write(self.path(name), text).unwrap();
        self.path(name).display().to_string()
    }

    pub fn run(&self, line: &str) -> Ran {
        self.run_with(line, "")
    }

    /// Words are split at blanks; `{}` is this bench's folder.
    pub fn run_with(&self, line: &str, stdin: &str) -> Ran {
        let folder = self.folder.path().display().to_string();
        let words: Vec<String> = line.split_whitespace().map(|w| w.replace("{}", &folder)).collect();
        self.run_words(&words.iter().map(String::as_str).collect::<Vec<_>>(), stdin)
    }

    pub fn run_words(&self, words: &[&str], stdin: &str) -> Ran {
        let mut child = Command::new(env!("CARGO_BIN_EXE_tortie"))
            .args(words)
            .env_clear()
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // The program may end before it has read everything.
        let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
        let output = child.wait_with_output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Ran { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// Standard output of a run that succeeds.
    pub fn out(&self, line: &str) -> String {
        let ran = self.run(line);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{line}: {ran:?}");
        ran.out
    }

    /// Standard error of a run that fails with exit code 1.
    pub fn err(&self, line: &str) -> String {
        let ran = self.run(line);
        assert_eq!(ran.code, 1, "{line}: {ran:?}");
        ran.err
    }
}
