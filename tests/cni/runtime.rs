//! A container runtime: Debian's containerd starts containers by what the daemon installs.

use crate::support::{Node, PLUGINS};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tortie::testing::netns::ChildGuard;

/// The places that `ctr` has no option for; mounted over, where only the commands that are run see it.
const PLACES: [&str; 2] = ["/etc/cni", "/opt/cni"];

/// containerd with all its state in a folder of the test.
struct Containerd {
    child: Child,
    socket: PathBuf,
    /// Those of [`PLACES`] that were made for the mounts.
    made: Vec<&'static str>,
}

impl Containerd {
    fn start(dir: &Path) -> Containerd {
        let (config, socket) = (dir.join("containerd.toml"), dir.join("containerd.sock"));
        let text = format!(
            "version = 2\nroot = \"{0}/root\"\nstate = \"{0}/state\"\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\n  address = \"{1}\"\n",
            dir.display(),
            socket.display()
        );
        std::fs::write(&config, text).unwrap();
        let log = std::fs::File::create(dir.join("containerd.log")).unwrap();
        let child = Command::new("containerd").arg("--config").arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        let made = PLACES.into_iter().filter(|p| !Path::new(p).exists() && std::fs::create_dir_all(p).is_ok()).collect();
        let c = Containerd { child: child.expect("containerd, of Debian's package containerd"), socket, made };
        let end = Instant::now() + Duration::from_secs(20);
        while !c.ctr(&["version"]).0 {
            assert!(Instant::now() < end, "{}", std::fs::read_to_string(dir.join("containerd.log")).unwrap_or_default());
            std::thread::sleep(Duration::from_millis(50));
        }
        c
    }

    /// A command that needs no network.
    fn ctr(&self, args: &[&str]) -> (bool, String) {
        let out = Command::new("ctr").arg("-a").arg(&self.socket).args(args).stdin(Stdio::null()).output().expect("ctr");
        (out.status.success(), String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned())
    }

    /// A container on the node's network, until its program ends.
    fn run(&self, node: &Node, name: &str, program: &str) -> ChildGuard {
        let dir = node.dir.path().display();
        let line = format!(
            "mount -t tmpfs tmpfs /etc/cni && mount -t tmpfs tmpfs /opt/cni && mkdir /etc/cni/net.d /opt/cni/bin && \
             mount --bind {dir}/net.d /etc/cni/net.d && mount --bind {dir}/bin /opt/cni/bin && \
             exec ctr -a {} run --rm --cni --rootfs {dir}/rootfs {name} {program}",
            self.socket.display()
        );
        node.ns.spawn(&["sh", "-c", &line])
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let (_, tasks) = self.ctr(&["task", "ls", "-q"]);
        for name in tasks.split_whitespace() {
            self.ctr(&["task", "rm", "-f", name]);
            self.ctr(&["container", "rm", name]);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        for place in &self.made {
            let _ = std::fs::remove_dir(place);
        }
    }
}

/// busybox under all its names.
fn root_file_system(dir: &Path) {
    for sub in ["bin", "proc", "sys", "dev", "etc", "tmp", "www"] {
        std::fs::create_dir_all(dir.join(sub)).unwrap();
    }
    std::fs::copy("/bin/busybox", dir.join("bin/busybox")).expect("busybox, of Debian's package busybox-static");
    for name in ["sh", "ip", "ping", "wget", "httpd"] {
        std::os::unix::fs::symlink("busybox", dir.join("bin").join(name)).unwrap();
    }
    std::fs::write(dir.join("www/index.html"), "hello from a container\n").unwrap();
}

fn output(mut guard: ChildGuard) -> (Option<bool>, String) {
    use std::io::Read;
    let (mut out, mut err) = (String::new(), String::new());
    let child = guard.child();
    let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let done = guard.wait(Duration::from_secs(30));
    let _ = stdout.read_to_string(&mut out);
    let _ = stderr.read_to_string(&mut err);
    (done, out + &err)
}

#[test]
fn containers_of_containerd_talk() {
    let mut node = Node::without_daemon();
    let dir = node.dir.path().to_owned();
    std::fs::create_dir(dir.join("bin")).unwrap();
    for plugin in ["portmap", "bandwidth"] {
        std::fs::copy(Path::new(PLUGINS).join(plugin), dir.join("bin").join(plugin)).unwrap();
    }
    root_file_system(&dir.join("rootfs"));
    let text = std::fs::read_to_string(&node.config).unwrap();
    let cni = "cni: {install: true, bin-dir: bin, conf-dir: net.d, log-file: /dev/stderr, mtu: 1400, cni-version: 1.0.0}\n";
    std::fs::write(&node.config, text + cni).unwrap();
    node.start();
    node.wait("the daemon installs the plugin", || dir.join("net.d/10-calico.conflist").exists());
    let list = std::fs::read_to_string(dir.join("net.d/10-calico.conflist")).unwrap();
    assert!(["\"tortie\"", "\"portmap\"", "\"bandwidth\"", "k8s-pod-network"].iter().all(|w| list.contains(w)), "{list}");

    let containerd = Containerd::start(&dir);
    let server = containerd.run(&node, "web", "/bin/httpd -f -p 80 -h /www");
    let endpoint = || node.client().endpoints().unwrap_or_default().into_iter().find(|e| e.ready && e.name.contains("-web-"));
    let end = Instant::now() + Duration::from_secs(20);
    while endpoint().is_none() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(20));
    }
    let Some(web) = endpoint() else { panic!("the server did not start: {:?}\n{}", output(server), node.story()) };
    let script = format!("ip route; ip link show eth0; ping -c 1 -W 2 10.1.0.1 && wget -q -O- http://{}/", web.addresses[0]);
    let (done, said) = output(node_client(&containerd, &node, &script));
    assert_eq!(done, Some(true), "{said}\n{}", node.story());
    assert!(
        said.contains("hello from a container") && said.contains("default via 169.254.1.1 dev eth0") && said.contains("mtu 1400"),
        "{said}"
    );
    let (killed, why) = containerd.ctr(&["task", "kill", "-s", "SIGKILL", "web"]);
    assert!(killed, "{why}");
    // `ctr run` detaches the container when its program has ended.
    let (_, said) = output(server);
    node.wait("both are detached", || {
        node.leftovers().is_empty() || {
            assert!(!said.contains("rror"), "{said}");
            false
        }
    });
}

fn node_client(containerd: &Containerd, node: &Node, script: &str) -> ChildGuard {
    let file = node.dir.path().join("rootfs/bin/client");
    std::fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    containerd.run(node, "client", "/bin/client")
}
