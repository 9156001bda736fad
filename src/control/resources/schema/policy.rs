//! NetworkPolicy and GlobalNetworkPolicy: what the fields of their rules ask of each other.

use super::Fault;
use crate::control::yaml::{Field, FieldError};
use ipnet::IpNet;
use std::net::IpAddr;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Namespace,
    Global,
}

type Checked = Result<(), FieldError>;

pub fn check(root: &Field, scope: Scope, faults: &mut Vec<Fault>) -> Checked {
    let spec = root.get("spec")?;
    for key in ["selector", "serviceAccountSelector"] {
        no_global(&spec.get(key)?, faults);
    }
    let types = spec.get("types")?;
    let named: Vec<String> = types.items()?.iter().filter_map(Field::scalar).collect();
    if named.len() == 2 && named[0] == named[1] {
        faults.push(Fault::at(&types, format!("{} is named twice", named[0])));
    }
    if scope == Scope::Global {
        untracked(&spec, faults)?;
    }
    for direction in ["ingress", "egress"] {
        for rule in spec.get(direction)?.items()? {
            self::rule(&rule, faults)?;
        }
    }
    Ok(())
}

fn no_global(selector: &Field, faults: &mut Vec<Fault>) {
    if selector.scalar().is_some_and(|s| s.contains("global(")) {
        faults.push(Fault::at(selector, "global() can only be used in a rule's namespaceSelector"));
    }
}

fn untracked(spec: &Field, faults: &mut Vec<Fault>) -> Checked {
    let on = |key: &str| spec.get(key).and_then(|f| f.boolean()).map(|b| b == Some(true));
    let (pre_dnat, do_not_track, forward) = (on("preDNAT")?, on("doNotTrack")?, spec.get("applyOnForward")?);
    if pre_dnat && do_not_track {
        faults.push(Fault::at(&spec.get("preDNAT")?, "preDNAT and doNotTrack cannot both be true"));
    }
    if (pre_dnat || do_not_track) && forward.boolean()? != Some(true) {
        faults.push(Fault::at(&forward, "must be true when preDNAT or doNotTrack is"));
    }
    let egress = spec.get("egress")?;
    let types = spec.get("types")?.items()?;
    let egress_type = types.iter().find(|t| t.scalar().as_deref() == Some("Egress"));
    if pre_dnat && (!egress.items()?.is_empty() || egress_type.is_some()) {
        faults.push(Fault::at(&egress, "a preDNAT policy cannot have egress rules or the type Egress"));
    }
    Ok(())
}

/// The number of a protocol that is named; `None` for others.
fn protocol(f: &Field) -> Option<u8> {
    let text = f.scalar()?;
    let names = [("TCP", 6), ("UDP", 17), ("ICMP", 1), ("ICMPv6", 58), ("SCTP", 132), ("UDPLite", 136)];
    names.iter().find(|(n, _)| n.eq_ignore_ascii_case(&text)).map(|(_, p)| *p).or_else(|| text.parse().ok())
}

fn rule(rule: &Field, faults: &mut Vec<Fault>) -> Checked {
    let (field, version) = (rule.get("protocol")?, rule.get("ipVersion")?);
    let proto = protocol(&field);
    if version.integer() == Some(5) {
        faults.push(Fault::at(&version, "4 or 6 is required"));
    }
    for key in ["protocol", "notProtocol"] {
        let f = rule.get(key)?;
        match (protocol(&f), version.integer()) {
            (Some(1), Some(6)) => faults.push(Fault::at(&version, format!("{key} ICMP requires ipVersion 4"))),
            (Some(58), Some(4)) => faults.push(Fault::at(&version, format!("{key} ICMPv6 requires ipVersion 6"))),
            _ => {}
        }
    }
    for key in ["icmp", "notICMP"] {
        let icmp = rule.get(key)?;
        if icmp.is_present() && !matches!(proto, Some(1 | 58)) {
            faults.push(Fault::at(&icmp, "requires protocol to be ICMP or ICMPv6"));
        }
        if icmp.get("code")?.is_present() && !icmp.get("type")?.is_present() {
            faults.push(Fault::at(&icmp.get("code")?, "an ICMP code requires an ICMP type"));
        }
    }
    for key in ["source", "destination"] {
        entity(&rule.get(key)?, proto, &version, key == "destination", faults)?;
    }
    http(rule, proto, faults)
}

fn http(rule: &Field, proto: Option<u8>, faults: &mut Vec<Fault>) -> Checked {
    let http = rule.get("http")?;
    if !http.is_present() {
        return Ok(());
    }
    if rule.get("action")?.scalar().as_deref() != Some("Allow") {
        faults.push(Fault::at(&http, "HTTP match is only valid on Allow rules"));
    }
    if rule.get("protocol")?.is_present() && proto != Some(6) {
        faults.push(Fault::at(&http, "HTTP match requires protocol TCP, or none"));
    }
    Ok(())
}

fn entity(entity: &Field, proto: Option<u8>, version: &Field, is_destination: bool, faults: &mut Vec<Fault>) -> Checked {
    for key in ["selector", "notSelector"] {
        no_global(&entity.get(key)?, faults);
    }
    for key in ["ports", "notPorts"] {
        let ports = entity.get(key)?;
        if !ports.items()?.is_empty() && !matches!(proto, Some(6 | 17 | 132)) {
            faults.push(Fault::at(&ports, "requires protocol to be TCP, UDP or SCTP"));
        }
    }
    families(entity, version, faults)?;
    let services = entity.get("services")?;
    if !services.is_present() {
        return Ok(());
    }
    let mut forbidden = vec!["selector", "notSelector", "namespaceSelector", "serviceAccounts", "nets", "notNets"];
    if is_destination {
        forbidden.extend(["ports", "notPorts"]);
    }
    for key in forbidden {
        let other = entity.get(key)?;
        let empty = other.scalar().is_some_and(|s| s.is_empty()) || other.items().is_ok_and(|i| i.is_empty());
        if other.is_present() && !empty {
            faults.push(Fault::at(&other, format!("{key} and services cannot both be set")));
        }
    }
    Ok(())
}

/// Nets are of the rule's IP version.
fn families(entity: &Field, version: &Field, faults: &mut Vec<Fault>) -> Checked {
    let Some(version) = version.integer() else { return Ok(()) };
    for key in ["nets", "notNets"] {
        for net in entity.get(key)?.items()? {
            let text = net.scalar().unwrap_or_default();
            let address = text.parse::<IpNet>().map(|n| n.addr()).or_else(|_| text.parse::<IpAddr>());
            if address.is_ok_and(|a| a.is_ipv4() != (version == 4)) {
                faults.push(Fault::at(&net, format!("the rule's ipVersion is {version}")));
            }
        }
    }
    Ok(())
}
