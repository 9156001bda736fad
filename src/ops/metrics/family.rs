//! Every metric, declared once: from here come the exposition and docs/metrics.md.

/// What a metric's value means to Prometheus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    Counter,
    Gauge,
    /// Count and sum only, no quantiles.
    Summary,
}

impl Type {
    /// As a `# TYPE` line says it.
    pub const fn name(self) -> &'static str {
        match self {
            Type::Counter => "counter",
            Type::Gauge => "gauge",
            Type::Summary => "summary",
        }
    }
}

/// One metric.
#[derive(Debug, PartialEq, Eq)]
pub struct Family {
    pub name: &'static str,
    pub kind: Type,
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

macro_rules! families {
    ($($id:ident = $kind:ident $name:literal [$($label:literal),*] $help:literal;)+) => {
        $(pub static $id: Family = Family { name: $name, kind: Type::$kind, labels: &[$($label),*], help: $help };)+
        /// All of them but the process's own (`process_*`), which the library collects.
        pub static ALL: &[&Family] = &[$(&$id),+];
    };
}

families! {
    BUILD = Gauge "tortie_build_info" ["version", "node"] "1; the labels tell the version and the node.";
    IN_SYNC = Gauge "tortie_datastore_in_sync" [] "1 if the cluster's state was read completely and names this node.";
    READY = Gauge "tortie_ready" [] "1 if in sync and every worker has forwarded by the cluster's state since.";
    PROBLEMS = Gauge "tortie_problems" [] "Lines under Problems in `tortie status`.";
    DROPS = Counter "tortie_drops_total" ["reason"] "Packets dropped; docs/counters.md explains each reason.";
    PUNTS = Counter "tortie_punts_total" ["reason"] "Packets handed to the host stack.";
    KERNEL_DROPS = Counter "tortie_kernel_drops_total" ["role", "reason"] "Packets that the kernel lost on the sockets of open ports.";
    RECEIVED = Counter "tortie_packets_received_total" ["worker"] "Packets received from ports; a super-frame is one.";
    GENERATED = Counter "tortie_packets_generated_total" ["worker"] "Packets made here: ICMP errors, ARP requests, fragments, segments.";
    SENT = Counter "tortie_packets_sent_total" ["worker"] "Packets sent by ports.";
    COALESCED = Counter "tortie_packets_coalesced_total" ["worker"] "Packets joined to the one before them.";
    HELD = Gauge "tortie_packets_held" ["worker"] "Packets that wait for a neighbour or for room on a port.";
    FLOWS_KEPT = Counter "tortie_host_flows_kept_total" ["worker"] "Flows from the host stack that were kept, so that their answers go back to it.";
    FLOWS_EVICTED = Counter "tortie_host_flows_evicted_total" ["worker"] "Kept flows that were given up for want of room.";
    FLOWS = Gauge "tortie_host_flows" [] "Entries for flows from the host stack, of 65536: one for each flow and one for each pair of addresses.";
    TURNS = Counter "tortie_worker_turns_total" ["worker"] "Turns of the worker's loop; one per second at least.";
    IDLE_TURNS = Counter "tortie_worker_idle_turns_total" ["worker"] "Turns that moved no packet.";
    SLEEPS = Counter "tortie_worker_sleeps_total" ["worker"] "Times the worker slept in the kernel.";
    SPINS = Counter "tortie_worker_spins_total" ["worker", "outcome"] "Times the worker looked for packets before sleeping: found, contended or vain.";
    EVENTS_LOST = Counter "tortie_worker_events_lost_total" ["worker"] "Events for the control task that found no room.";
    PORT_PACKETS = Counter "tortie_port_packets_total" ["role", "direction"] "Packets over all ports of a role: received, sent.";
    PORT_BYTES = Counter "tortie_port_bytes_total" ["role", "direction"] "Bytes over all ports of a role: received, sent.";
    PORT_DROPPED = Counter "tortie_port_send_drops_total" ["role"] "Packets that ports of a role did not take.";
    PORTS = Gauge "tortie_ports" ["role", "state"] "Ports: up or down.";
    POD_PACKETS = Counter "tortie_pod_packets_total" ["namespace", "pod", "interface", "direction"] "Packets of a pod on this node: from-pod, to-pod.";
    POD_BYTES = Counter "tortie_pod_bytes_total" ["namespace", "pod", "interface", "direction"] "Bytes of a pod on this node: from-pod, to-pod.";
    PODS_OMITTED = Gauge "tortie_pods_omitted" [] "Pods on this node beyond the 512 that have metrics of their own.";
    PEER_PACKETS = Counter "tortie_peer_packets_total" ["peer", "direction"] "Packets of another node, inner ones where there is a tunnel: to-peer, from-peer.";
    PEER_BYTES = Counter "tortie_peer_bytes_total" ["peer", "direction"] "Bytes of those packets, from the inner IP header on.";
    PEERS_OMITTED = Gauge "tortie_peers_omitted" [] "Other nodes beyond the 256 that have metrics of their own.";
    GENERATION = Gauge "tortie_fib_generation" [] "Generation of the snapshot in force.";
    ROUTES = Gauge "tortie_fib_routes" ["kind"] "Routes in the FIB.";
    VTEPS = Gauge "tortie_vteps" [] "Other nodes reachable over VXLAN.";
    POD_MTU = Gauge "tortie_pod_mtu_bytes" [] "MTU of pods.";
    FELIX_ENDPOINTS = Gauge "felix_active_local_endpoints" [] "Workload endpoints on this node.";
    FELIX_HOSTS = Gauge "felix_cluster_num_hosts" [] "Nodes in the cluster.";
    FELIX_WORKLOADS = Gauge "felix_cluster_num_workload_endpoints" [] "Workload endpoints in the cluster.";
    FELIX_STATE = Gauge "felix_resync_state" [] "State of the datastore: 2 being read, 3 in sync.";
    FELIX_RESYNCS = Counter "felix_resyncs_started" [] "Complete reads of the datastore.";
    FELIX_CALC = Summary "felix_calc_graph_update_time_seconds" [] "Calculations of this node's state from the cluster's.";
    FELIX_APPLY = Summary "felix_int_dataplane_apply_time_seconds" [] "Updates of ports, data plane and host.";
    FELIX_FAILURES = Counter "felix_int_dataplane_failures" [] "Updates that left something on the host undone, to be tried again.";
    FELIX_ROUTES = Gauge "felix_route_table_num_routes" ["table"] "Routes of ours in the kernel's routing table.";
}
