//! FelixConfiguration: `default` for the cluster, `node.<name>` for one node.

use super::fields::prefix;
use super::monitoring::{self, Monitoring};
use super::workload_endpoint::HASH_DIGITS;
use crate::control::logging::Level;
use crate::control::pattern::{Pattern, PatternError};
use crate::control::yaml::{self, Field, FieldError, INTERFACE_NAME_MAX, quoted};
use crate::wire::vxlan::Vni;
use ipnet::IpNet;

/// What one object sets; `None` leaves it to the next more general one, and in the end to the default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FelixConfiguration {
    pub vxlan_enabled: Option<bool>,
    pub ipip_enabled: Option<bool>,
    pub vxlan_port: Option<u16>,
    pub vxlan_vni: Option<Vni>,
    /// 0: from the uplink's MTU.
    pub vxlan_mtu: Option<u16>,
    /// 0: from the uplink's MTU.
    pub ipip_mtu: Option<u16>,
    /// Prefixes of the workloads' host-side interfaces; the first one names new ones.
    pub interface_prefixes: Option<Vec<String>>,
    pub workloads_may_vxlan: Option<bool>,
    pub workloads_may_ipip: Option<bool>,
    /// Tunnel packets are accepted from these besides the nodes.
    pub external_nodes: Option<Vec<IpNet>>,
    pub source_spoofing: Option<SourceSpoofing>,
    pub route_source: Option<RouteSource>,
    /// Whether floating IPs of workloads count.
    pub floating_ips: Option<bool>,
    /// Links whose MTU counts for pods.
    pub mtu_links: Option<Pattern>,
    /// What the log shows.
    pub log: Option<Level>,
    pub monitoring: Monitoring,
}

/// What the routes to other nodes' pods follow from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RouteSource {
    /// The blocks and the addresses borrowed from them.
    #[default]
    CalicoIpam,
    /// The pods' addresses, one by one: clusters whose addresses another IPAM gives out.
    WorkloadIps,
}

/// Whether workloads may have source addresses that are not their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SourceSpoofing {
    #[default]
    Disabled,
    /// Those that their annotation or endpoint asks for.
    Any,
}

impl FelixConfiguration {
    /// This object's settings where it has them, `general`'s otherwise.
    pub fn over(&self, general: &FelixConfiguration) -> FelixConfiguration {
        FelixConfiguration {
            vxlan_enabled: self.vxlan_enabled.or(general.vxlan_enabled),
            ipip_enabled: self.ipip_enabled.or(general.ipip_enabled),
            vxlan_port: self.vxlan_port.or(general.vxlan_port),
            vxlan_vni: self.vxlan_vni.or(general.vxlan_vni),
            vxlan_mtu: self.vxlan_mtu.or(general.vxlan_mtu),
            ipip_mtu: self.ipip_mtu.or(general.ipip_mtu),
            interface_prefixes: self.interface_prefixes.clone().or_else(|| general.interface_prefixes.clone()),
            workloads_may_vxlan: self.workloads_may_vxlan.or(general.workloads_may_vxlan),
            workloads_may_ipip: self.workloads_may_ipip.or(general.workloads_may_ipip),
            external_nodes: self.external_nodes.clone().or_else(|| general.external_nodes.clone()),
            source_spoofing: self.source_spoofing.or(general.source_spoofing),
            route_source: self.route_source.or(general.route_source),
            floating_ips: self.floating_ips.or(general.floating_ips),
            mtu_links: self.mtu_links.clone().or_else(|| general.mtu_links.clone()),
            log: self.log.or(general.log),
            monitoring: self.monitoring.over(&general.monitoring),
        }
    }

    /// One field as `spec` has it; the error's path is empty.
    pub fn of_field(field: &str, value: serde_json::Value) -> Result<FelixConfiguration, FieldError> {
        let text = serde_json::json!({"spec": {field: value}}).to_string();
        let fault = |e: yaml::SyntaxError| FieldError { line: 0, path: String::new(), message: e.message };
        let docs = yaml::documents(&text).map_err(fault)?;
        let none = FelixConfiguration::default;
        docs.first().map_or_else(|| Ok(none()), |d| read(&Field::root(d))).map_err(|e| FieldError { path: String::new(), ..e })
    }

    /// Every field by its name in `spec`, with its value if it is set, and what is in force if none sets it.
    pub fn fields(&self) -> [(&'static str, Option<String>, &'static str); 20] {
        fn text<T: ToString>(v: &Option<T>) -> Option<String> {
            v.as_ref().map(T::to_string)
        }
        let spoofing = self.source_spoofing.map(|s| match s {
            SourceSpoofing::Disabled => "Disabled".to_owned(),
            SourceSpoofing::Any => "Any".to_owned(),
        });
        let source = self.route_source.map(|s| match s {
            RouteSource::CalicoIpam => "CalicoIPAM".to_owned(),
            RouteSource::WorkloadIps => "WorkloadIPs".to_owned(),
        });
        let external = self.external_nodes.as_ref().map(|l| l.iter().map(IpNet::to_string).collect::<Vec<_>>().join(","));
        let Monitoring { metrics, health } = &self.monitoring;
        [
            ("vxlanEnabled", text(&self.vxlan_enabled), "as the pools ask"),
            ("ipipEnabled", text(&self.ipip_enabled), "as the pools ask"),
            ("vxlanPort", text(&self.vxlan_port), "4789"),
            ("vxlanVNI", self.vxlan_vni.map(|v| v.get().to_string()), "4096"),
            ("vxlanMTU", text(&self.vxlan_mtu), "0"),
            ("ipipMTU", text(&self.ipip_mtu), "0"),
            ("mtuIfacePattern", text(&self.mtu_links), DEFAULT_MTU_LINKS),
            ("interfacePrefix", self.interface_prefixes.as_ref().map(|p| p.join(",")), "cali"),
            ("allowVXLANPacketsFromWorkloads", text(&self.workloads_may_vxlan), "false"),
            ("allowIPIPPacketsFromWorkloads", text(&self.workloads_may_ipip), "false"),
            ("externalNodesList", external, ""),
            ("workloadSourceSpoofing", spoofing, "Disabled"),
            ("routeSource", source, "CalicoIPAM"),
            ("logSeverityScreen", text(&self.log), "info"),
            ("prometheusMetricsEnabled", text(&metrics.enabled), "false"),
            ("prometheusMetricsHost", metrics.host.clone(), ""),
            ("prometheusMetricsPort", text(&metrics.port), "9091"),
            ("healthEnabled", text(&health.enabled), "false"),
            ("healthHost", health.host.clone(), "localhost"),
            ("healthPort", text(&health.port), "9099"),
        ]
    }

    /// The prefix that names pods' interfaces.
    pub fn interface_prefix(&self) -> &str {
        self.interface_prefixes.as_ref().and_then(|p| p.first()).map_or("cali", |p| p)
    }
}

pub(super) fn read(root: &Field) -> Result<FelixConfiguration, FieldError> {
    let spec = root.get("spec")?;
    Ok(FelixConfiguration {
        vxlan_enabled: spec.get("vxlanEnabled")?.boolean()?,
        ipip_enabled: spec.get("ipipEnabled")?.boolean()?,
        vxlan_port: spec.get("vxlanPort")?.number(1, 65535)?,
        vxlan_vni: spec.get("vxlanVNI")?.number::<u32>(1, (1 << 24) - 1)?.and_then(Vni::new),
        vxlan_mtu: mtu(&spec.get("vxlanMTU")?)?,
        ipip_mtu: mtu(&spec.get("ipipMTU")?)?,
        interface_prefixes: interface_prefixes(&spec.get("interfacePrefix")?)?,
        workloads_may_vxlan: spec.get("allowVXLANPacketsFromWorkloads")?.boolean()?,
        workloads_may_ipip: spec.get("allowIPIPPacketsFromWorkloads")?.boolean()?,
        external_nodes: external_nodes(&spec.get("externalNodesList")?)?,
        source_spoofing: spec
            .get("workloadSourceSpoofing")?
            .one_of(&[("Disabled", SourceSpoofing::Disabled), ("Any", SourceSpoofing::Any)])?,
        route_source: spec
            .get("routeSource")?
            .one_of(&[("CalicoIPAM", RouteSource::CalicoIpam), ("WorkloadIPs", RouteSource::WorkloadIps)])?,
        floating_ips: spec.get("floatingIPs")?.one_of(&[("Enabled", true), ("Disabled", false)])?,
        mtu_links: mtu_links(&spec.get("mtuIfacePattern")?)?,
        log: severity(&spec.get("logSeverityScreen")?)?,
        monitoring: monitoring::read(&spec)?,
    })
}

/// Links whose MTU counts for pods unless mtuIfacePattern names others: Ethernet, wireless, serial and InfiniBand by
/// the names that the kernel and systemd give.
pub const DEFAULT_MTU_LINKS: &str = "^((en|wl|ww|sl|ib)[Pcopsvx].*|(eth|wlan|wwan).*)";

fn mtu_links(f: &Field) -> Result<Option<Pattern>, FieldError> {
    let Some(text) = f.text()?.filter(|s| !s.is_empty()) else { return Ok(None) };
    text.parse().map(Some).map_err(|e: PatternError| f.error(e.to_string()))
}

/// Felix's words in any case.
fn severity(f: &Field) -> Result<Option<Level>, FieldError> {
    f.text()?.filter(|s| !s.is_empty()).map(|s| s.parse().map_err(|e: String| f.error(e))).transpose()
}

/// 0, or at least what every IPv4 link carries (RFC 791).
fn mtu(f: &Field) -> Result<Option<u16>, FieldError> {
    match f.number::<u16>(0, 65535)? {
        Some(n @ 1..68) => Err(f.error(format!("{n} is less than 68, the least MTU of IPv4; 0 means automatic"))),
        n => Ok(n),
    }
}

fn interface_prefixes(f: &Field) -> Result<Option<Vec<String>>, FieldError> {
    let Some(text) = f.text()?.filter(|s| !s.is_empty()) else { return Ok(None) };
    let all: Vec<String> = text.split(',').map(|p| p.trim().to_owned()).collect();
    let room = INTERFACE_NAME_MAX - HASH_DIGITS;
    for prefix in &all {
        if prefix.is_empty() || !prefix.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
            return Err(f.error(format!("{} is not the start of an interface name", quoted(prefix))));
        }
    }
    if all[0].len() > room {
        let message = format!(
            "{} has more than {room} characters; {HASH_DIGITS} hex digits follow and {INTERFACE_NAME_MAX} are the most",
            quoted(&all[0])
        );
        return Err(f.error(message));
    }
    Ok(Some(all))
}

fn external_nodes(f: &Field) -> Result<Option<Vec<IpNet>>, FieldError> {
    if !f.is_present() {
        return Ok(None);
    }
    let mut out = Vec::new();
    for item in f.items()? {
        let text = item.required_text()?;
        out.push(match text.parse::<std::net::IpAddr>() {
            Ok(ip) => IpNet::from(ip),
            Err(_) => prefix(&item)?.ok_or_else(|| item.error("must not be empty"))?,
        });
    }
    Ok(Some(out))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::yaml::documents;

    fn felix(spec: &str) -> Result<FelixConfiguration, String> {
        let docs = documents(&format!("spec: {{{spec}}}")).unwrap();
        read(&Field::root(&docs[0])).map_err(|e| e.to_string())
    }

    #[test]
    fn the_specific_object_goes_over_the_general_one() {
        let general =
            felix("vxlanPort: 4790, vxlanVNI: 5000, allowVXLANPacketsFromWorkloads: true, externalNodesList: [10.0.0.1, 10.9.0.0/24]")
                .unwrap();
        let own = felix("vxlanPort: 4791, vxlanMTU: 1400, allowVXLANPacketsFromWorkloads: false, interfacePrefix: 'tap,cali'").unwrap();
        let both = own.over(&general);
        assert_eq!((both.vxlan_port, both.vxlan_vni, both.vxlan_mtu), (Some(4791), Vni::new(5000), Some(1400)));
        assert_eq!((both.workloads_may_vxlan, both.workloads_may_ipip, both.interface_prefix()), (Some(false), None, "tap"));
        assert_eq!(both.external_nodes.unwrap(), ["10.0.0.1/32".parse().unwrap(), "10.9.0.0/24".parse::<IpNet>().unwrap()]);
        assert_eq!(FelixConfiguration::default().interface_prefix(), "cali");
    }

    #[test]
    fn faults() {
        for (spec, want) in [
            ("vxlanPort: 0", "spec.vxlanPort: a whole number from 1 to 65535"),
            ("vxlanVNI: 16777216", "spec.vxlanVNI: a whole number from 1 to 16777215"),
            ("vxlanMTU: 67", "spec.vxlanMTU: 67 is less than 68"),
            ("ipipMTU: -1", "spec.ipipMTU: a whole number from 0"),
            ("interfacePrefix: toolong", "spec.interfacePrefix: \"toolong\" has more than 4 characters"),
            ("interfacePrefix: 'a/b'", "spec.interfacePrefix: \"a/b\" is not the start"),
            ("externalNodesList: [10.0.0.0/8, x]", "spec.externalNodesList[1]: \"x\" is not a CIDR"),
            ("externalNodesList: [10.0.0.1/8]", "spec.externalNodesList[0]: 10.0.0.1/8 has bits beyond"),
            ("workloadSourceSpoofing: any", "spec.workloadSourceSpoofing: \"any\" is not one of Disabled, Any"),
            ("floatingIPs: true", "spec.floatingIPs: text is required, not the boolean true"),
            ("mtuIfacePattern: 'eth('", "spec.mtuIfacePattern: \"eth(\" is not a regular expression: unclosed group"),
            ("vxlanEnabled: 'true'", "spec.vxlanEnabled: true or false is required"),
        ] {
            let got = felix(spec).unwrap_err();
            assert!(got.starts_with(want), "{spec}: {got}");
        }
    }
}
