use super::*;
use crate::port::Medium;
use crate::port::mem::{self, MemPort};
use crate::port::open::UplinkPorts;
use crate::worker::{Reasons, Waker};

/// Opens memory ports, or refuses while `broken`.
#[derive(Default)]
struct Fake {
    broken: bool,
    opened: Vec<String>,
    discarded: Vec<String>,
    resized: Vec<u32>,
}

impl Fake {
    fn queues(&mut self, wish: &Wish) -> Result<Opened, Vec<String>> {
        if self.broken {
            return Err(vec!["mem: broken".into()]);
        }
        self.opened.push(wish.interface.clone());
        let (port, _) = MemPort::pair(mem::caps(Medium::Ethernet, 1500), 4);
        Ok(Opened { queues: vec![Box::new(port)], refused: vec!["better: not here".into()] })
    }
}

impl Opener for Fake {
    fn workload(&mut self, wish: &Wish) -> Result<Opened, Vec<String>> {
        self.queues(wish)
    }
    fn uplink(&mut self, wish: &Wish) -> Result<OpenedUplink, Vec<String>> {
        self.queues(wish).map(|o| OpenedUplink { ports: UplinkPorts::Whole(o.queues), refused: o.refused })
    }
    fn host(&mut self, wish: &Wish) -> Result<Opened, Vec<String>> {
        self.queues(wish)
    }
    fn resize(&mut self, wish: &Wish) -> bool {
        self.resized.push(wish.mtu);
        !self.broken
    }
    fn discard(&mut self, wish: &Wish) {
        self.discarded.push(wish.interface.clone());
    }
}

struct Bench {
    manager: PortManager<Fake>,
    mailbox: Arc<Mailbox>,
    now: Instant,
}

fn wish(interface: &str, missing: Option<&str>) -> Wish {
    Wish {
        interface: interface.into(),
        ifindex: 1,
        mtu: 1500,
        mac: None,
        netns: None,
        limited: false,
        tunnel: None,
        missing: missing.map(Into::into),
    }
}

impl Bench {
    fn new() -> Bench {
        let mailbox = Arc::new(Mailbox::new(Arc::new(Waker::new().unwrap())).unwrap());
        let manager = PortManager::new(Fake::default(), vec![mailbox.clone()], vec![Arc::default()]);
        Bench { manager, mailbox, now: Instant::now() }
    }

    fn sync(&mut self, all: &[(&str, Wish)]) -> bool {
        let by_key = all.iter().map(|(n, w)| (Key::Workload((*n).into()), w.clone())).collect();
        self.now += Duration::from_millis(1);
        self.manager.sync(Wishes { by_key, problems: Vec::new() }, self.now)
    }

    /// What the worker was told: +id for a port to own, -id for one to close; it obeys.
    fn obey(&mut self) -> Vec<i32> {
        let mut out = Vec::new();
        while let Some(c) = self.mailbox.commands.pop() {
            match c {
                Command::AddPort { id, .. } => out.push(i32::from(id.0) + 1),
                Command::RemovePort { id } => {
                    out.push(-i32::from(id.0) - 1);
                    self.manager.closed(0, id);
                }
                _ => {}
            }
        }
        out
    }
}

#[test]
fn many_ports_open_a_few_at_a_time_and_one_that_fails_holds_none_up() {
    let mut b = Bench::new();
    let names: Vec<(String, Wish)> = (0..20).map(|i| (format!("p{i:02}"), wish(&format!("cali{i}"), None))).collect();
    let all: Vec<(&str, Wish)> = names.iter().map(|(n, w)| (n.as_str(), w.clone())).collect();
    b.manager.opener().broken = true;
    assert!(!b.sync(&all));
    b.manager.opener().broken = false;
    let mut opened = Vec::new();
    while b.manager.due(b.now).is_some_and(|t| t <= b.now) {
        assert!(b.manager.tick(0, b.now));
        opened.push(b.obey().len());
    }
    assert_eq!(opened, [8, 4], "the first eight failed and wait for their next try");
    b.now += Duration::from_secs(1);
    assert!(b.manager.tick(0, b.now));
    assert_eq!((b.obey().len(), b.manager.ports().workloads.len()), (8, 20));
}

#[test]
fn a_port_opens_when_its_interface_comes_and_closes_when_it_goes() {
    let mut b = Bench::new();
    assert!(!b.sync(&[("a", wish("cali1", Some("waiting for interface cali1 to appear")))]));
    assert!(b.manager.problems()[0].contains("waiting for interface cali1"), "{:?}", b.manager.problems());
    assert!(b.sync(&[("a", wish("cali1", None))]));
    assert_eq!((b.obey(), b.manager.ports().workloads.len()), (vec![1], 1));
    let fact = &b.manager.facts()[0];
    assert_eq!((fact.state.as_str(), fact.refused.len(), fact.queues), ("up", 1, 1));
    assert!(b.sync(&[("a", wish("cali1", Some("gone")))]));
    assert_eq!((b.obey(), b.manager.ports().workloads.len()), (vec![-1], 0));
    // Back under another index: opened again, under its own number.
    assert!(b.sync(&[("a", Wish { ifindex: 7, ..wish("cali1", None) })]));
    assert_eq!(b.obey(), [1]);
    assert!(b.manager.opener().discarded.is_empty());
}

#[test]
fn it_is_not_opened_again_before_the_worker_let_go() {
    let mut b = Bench::new();
    b.sync(&[("a", wish("cali1", None))]);
    b.obey();
    assert!(b.manager.failed(0, PortId(0), "network is down", b.now));
    assert!(!b.manager.failed(0, PortId(0), "again", b.now), "told once");
    b.manager.hurry(b.now);
    assert!(!b.manager.tick(0, b.now));
    assert_eq!(b.manager.opener().opened.len(), 1);
    assert_eq!(b.obey(), [-1]);
    assert!(b.manager.tick(0, b.now));
    assert_eq!((b.obey(), b.manager.opener().opened.len()), (vec![1], 2));
}

#[test]
fn failures_back_off_and_a_change_on_the_host_hurries() {
    let mut b = Bench::new();
    b.manager.opener().broken = true;
    b.sync(&[("a", wish("cali1", None))]);
    let first = b.manager.due(b.now).unwrap();
    assert_eq!(first - b.now, Duration::from_millis(100));
    assert!(!b.manager.tick(0, first));
    assert_eq!(b.manager.due(first).unwrap() - first, Duration::from_millis(200));
    assert!(b.manager.problems()[0].contains("mem: broken"));
    b.manager.opener().broken = false;
    assert!(!b.manager.tick(0, first), "not due yet");
    b.manager.hurry(first);
    assert!(b.manager.tick(0, first));
    assert_eq!(backoff(20), Duration::from_secs(5));
}

#[test]
fn numbers_return_after_close_and_generation() {
    let mut b = Bench::new();
    b.sync(&[("a", wish("cali1", None)), ("b", wish("cali2", None))]);
    b.obey();
    b.sync(&[("b", wish("cali2", None))]);
    assert_eq!(b.manager.opener().discarded, ["cali1"]);
    b.manager.published(5);
    assert_eq!(b.obey(), [-1]);
    b.manager.tick(4, b.now);
    b.sync(&[("b", wish("cali2", None)), ("c", wish("cali3", None))]);
    assert_eq!(b.obey(), [3], "a worker still uses the generation before");
    b.manager.tick(5, b.now);
    b.sync(&[("b", wish("cali2", None)), ("c", wish("cali3", None)), ("d", wish("cali4", None))]);
    assert_eq!(b.obey(), [1]);
}

#[test]
fn a_learned_mac_is_news_once_and_goes_with_its_endpoint() {
    let mut b = Bench::new();
    b.sync(&[("a", wish("cali1", None))]);
    let mac = Mac([2, 0, 0, 0, 0, 9]);
    assert!(b.manager.learn(PortId(0), mac) && !b.manager.learn(PortId(0), mac));
    assert!(!b.manager.learn(PortId(0), Mac::BROADCAST) && !b.manager.learn(PortId(5), mac));
    assert_eq!(b.manager.ports().workloads["a"].mac, Some(mac));
}

#[test]
fn a_dead_worker_means_fresh_ports() {
    let mut b = Bench::new();
    b.sync(&[("a", wish("cali1", None))]);
    b.obey();
    b.manager.worker_gone(0, b.now);
    assert!(b.manager.tick(0, b.now));
    assert_eq!(b.obey(), [1]);
}

#[test]
fn a_device_of_ours_changes_its_mtu_without_being_opened_again() {
    let mut b = Bench::new();
    let made = |mtu| Wish { ifindex: 0, mtu, ..wish("eth0", None) };
    b.sync(&[("a", made(1450))]);
    assert_eq!(b.obey(), [1]);
    assert!(b.sync(&[("a", made(1480))]), "the data plane has to know");
    assert_eq!((b.obey().len(), &b.manager.opener().resized[..]), (0, &[1480][..]));
    assert_eq!(b.manager.ports().workloads["a"].out.mtu, 1480);
    assert!(!b.sync(&[("a", made(1480))]));
    // Where that fails, and on an interface of somebody else, the port is opened again.
    b.manager.opener().broken = true;
    b.sync(&[("a", made(1450))]);
    assert_eq!(b.obey(), [-1]);
    let mut b = Bench::new();
    b.sync(&[("a", wish("cali1", None))]);
    b.obey();
    b.sync(&[("a", Wish { mtu: 1450, ..wish("cali1", None) })]);
    assert!(b.manager.opener().resized.is_empty());
    assert_eq!(b.obey(), [-1]);
}

#[test]
fn a_learned_mac_goes_with_its_device() {
    let mut b = Bench::new();
    b.sync(&[("a", wish("cali1", None))]);
    b.obey();
    assert!(b.manager.learn(PortId(0), Mac([2, 0, 0, 0, 0, 7])));
    // The same interface, down and up again.
    b.sync(&[("a", wish("cali1", Some("waiting")))]);
    b.obey();
    b.sync(&[("a", wish("cali1", None))]);
    assert_eq!(b.manager.ports().workloads["a"].mac, Some(Mac([2, 0, 0, 0, 0, 7])));
    // Another one of the same name.
    b.sync(&[("a", Wish { ifindex: 2, ..wish("cali1", None) })]);
    b.obey();
    b.sync(&[("a", Wish { ifindex: 2, ..wish("cali1", None) })]);
    assert_eq!(b.manager.ports().workloads["a"].mac, None);
}

#[test]
fn counts_of_the_manager_before_go_to_ports_of_the_same_name_and_to_the_past() {
    let mut b = Bench::new();
    b.sync(&[("a", wish("cali1", None)), ("b", wish("cali2", Some("absent")))]);
    let open: Vec<_> = b.manager.open_ports().map(|p| (p.key.to_string(), p.ids.to_vec())).collect();
    assert_eq!((open.len(), open[0].0.as_str()), (1, "workload a"));
    let t = |rx_frames| PortTotals { rx_frames, ..PortTotals::default() };
    let totals = [("workload a", vec![t(5)]), ("workload gone", vec![t(7)]), ("uplink", vec![t(1), t(2), t(3)])];
    let past = BTreeMap::from([("workload".to_owned(), t(100))]);
    let carried = b.manager.carry(&totals.map(|(k, v)| (k.to_owned(), v)).into(), &past);
    assert_eq!(carried, [(open[0].1[0], t(5))]);
    assert_eq!(b.manager.past(), &BTreeMap::from([("workload", t(107)), ("uplink", t(6))]));
    assert_eq!(b.manager.totals()["workload a"], [t(0)], "it has not been counted here yet");
    let dropped = |n| Reasons::from([("source-spoofed".to_owned(), n)]);
    let reasons = [("workload a", vec![dropped(3)]), ("workload b", vec![]), ("workload gone", vec![dropped(4)])];
    let carried = b.manager.carry_reasons(&reasons.map(|(k, v)| (k.to_owned(), v)).into());
    assert_eq!(carried, [(open[0].1[0], dropped(3))]);
    assert_eq!(b.manager.reasons()["workload a"], [Reasons::new()]);
    assert!(wish("cali1", None).identity() != Wish { ifindex: 2, ..wish("cali1", None) }.identity());
    assert_eq!(wish("cali1", None).identity(), Wish { mtu: 9000, ..wish("cali1", None) }.identity(), "the MTU changes while it is open");
}
