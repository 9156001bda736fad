//! `tortie ipam`: what addresses are in use, by whom, and what does not fit together; in calicoctl's words.

use super::boxed::Boxed;
use super::resource::Store;
use super::{Outcome, print};
use crate::control::datastore::AnyObjects;
use crate::control::ipam::check::{Finding, Severity, check, leaks};
use crate::control::ipam::report::{self, AddressState, PoolUtilization, Utilization};
use crate::control::ipam::{Attribute, Ipam, Listing, ReleaseRequest};
use crate::control::resources::{Client, Error, Kind, Patch};
use clap::builder::BoolishValueParser;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Show how many addresses are in use, or who has one
    Show(Show),
    /// Release an address that nothing uses any more
    Release(Release),
    /// Change the settings of address management
    Configure(Configure),
    /// Look for addresses that are lost, doubly used or in use by nobody
    Check(Check),
}

#[derive(Debug, clap::Args)]
#[group(id = "what", multiple = false)]
struct Show {
    /// Who has this address
    #[arg(long, value_name = "IP", group = "what")]
    ip: Option<IpAddr>,
    /// The pools' blocks too
    #[arg(long, group = "what")]
    show_blocks: bool,
    /// Addresses that nodes have from other nodes' blocks
    #[arg(long, group = "what")]
    show_borrowed: bool,
    /// The settings
    #[arg(long, group = "what")]
    show_configuration: bool,
    #[command(flatten)]
    store: Store,
}

#[derive(Debug, clap::Args)]
struct Release {
    /// The address
    #[arg(long, value_name = "IP", required_unless_present = "from_report")]
    ip: Option<IpAddr>,
    /// All addresses that a report of `ipam check -o FILE` says are in use by nobody, and that still are
    #[arg(long, value_name = "FILE,...", value_delimiter = ',', conflicts_with_all = ["ip", "force"])]
    from_report: Vec<std::path::PathBuf>,
    /// Even if a pod or a node's tunnel has it
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    store: Store,
}

#[derive(Debug, clap::Args)]
struct Configure {
    /// Whether nodes take addresses from their own blocks only
    #[arg(long, value_name = "true|false", value_parser = BoolishValueParser::new())]
    strictaffinity: Option<bool>,
    /// Most blocks that a node may have; 0: no limit of its own
    #[arg(long, value_name = "N")]
    max_blocks_per_host: Option<u32>,
    #[command(flatten)]
    store: Store,
}

#[derive(Debug, clap::Args)]
struct Check {
    /// Write the findings as JSON to this file, too
    #[arg(short, long, value_name = "FILE")]
    output: Option<std::path::PathBuf>,
    #[command(flatten)]
    store: Store,
}

pub fn run(args: &Args) -> Outcome {
    match &args.verb {
        Verb::Show(a) => show(a),
        Verb::Release(Release { ip: Some(ip), force, store, .. }) => release(store, *ip, *force),
        Verb::Release(a) => release_reported(&a.store, &a.from_report),
        Verb::Configure(a) => configure(a),
        Verb::Check(a) => check_all(a),
    }
}

fn show(args: &Show) -> Outcome {
    let listing = args.store.with(async |objects| Ok(Listing::read(objects).await?))?;
    let text = match args.ip {
        Some(ip) => address(ip, report::address(&listing, ip)),
        None if args.show_borrowed => borrowed(&listing),
        None if args.show_configuration => configuration(&listing),
        None => utilization(&report::utilization(&listing), args.show_blocks),
    };
    print(&text)?;
    for fault in &listing.unreadable {
        let _ = writeln!(io::stderr(), "tortie: warning: not counted: {fault}");
    }
    Ok(ExitCode::SUCCESS)
}

/// Columns of reserved and cooling addresses are shown where there are such addresses.
fn utilization(pools: &[PoolUtilization], show_blocks: bool) -> String {
    let rows: Vec<(&str, &Utilization)> = pools
        .iter()
        .flat_map(|p| {
            let blocks = p.blocks.iter().filter(|_| show_blocks).map(|b| ("Block", b));
            p.pool.iter().map(|(_, u)| ("IP Pool", u)).chain(blocks)
        })
        .collect();
    let (reserved, cooling) = (rows.iter().any(|(_, u)| u.reserved > 0), rows.iter().any(|(_, u)| u.cooling > 0));
    let mut heading = vec!["GROUPING", "CIDR", "IPS TOTAL", "IPS IN USE"];
    heading.extend(reserved.then_some("IPS RESERVED"));
    heading.push("IPS FREE");
    heading.extend(cooling.then_some("IPS COOLING"));
    let mut table = Boxed::new(&heading);
    for (kind, u) in rows {
        let share = |n: u128| report::share(n, u.total);
        let mut cells = vec![kind.to_owned(), u.cidr.to_string(), report::number(u.total), share(u.in_use)];
        cells.extend(reserved.then(|| share(u.reserved)));
        cells.push(share(u.free));
        cells.extend(cooling.then(|| share(u.cooling)));
        table.row(cells);
    }
    table.render()
}

fn address(ip: IpAddr, state: AddressState) -> String {
    let attribute = match state {
        AddressState::Unassigned => return format!("{ip} is not assigned\n"),
        AddressState::Cooling => return format!("{ip} is not assigned; it was released and is in cooldown\n"),
        AddressState::Assigned(attribute) => attribute,
    };
    let handle = attribute.handle.as_deref().unwrap_or("<none>");
    let mut out = format!("IP {ip} is in use\nHandle ID: {handle}\n");
    if attribute.active.is_empty() {
        out.push_str("No Active Owner attributes defined\n");
    }
    out.push_str(&attributes("Active Owner Attributes", &attribute.active));
    out.push_str(&attributes("Alternate Owner Attributes", &attribute.alternate));
    out
}

fn attributes(title: &str, all: &BTreeMap<String, String>) -> String {
    let lines: String = all.iter().map(|(k, v)| format!("  {k}: {v}\n")).collect();
    if lines.is_empty() { lines } else { format!("{title}:\n{lines}") }
}

fn borrowed(listing: &Listing) -> String {
    let (rows, unclassified) = report::borrowed(listing);
    let mut table = Boxed::new(&["IP", "BORROWING-NODE", "BLOCK", "BLOCK OWNER", "TYPE", "ALLOCATED-TO"]);
    for r in rows {
        table.row([r.address.to_string(), r.node, r.block.to_string(), r.owner, r.kind, r.holder]);
    }
    let mut out = table.render();
    if unclassified > 0 {
        out.push_str(&format!(
            "\nNote: found {unclassified} IP allocations without an explicit node association. Unable to determine if they are borrowed.\n"
        ));
    }
    out
}

fn configuration(listing: &Listing) -> String {
    let mut table = Boxed::new(&["PROPERTY", "VALUE"]);
    for (property, value) in report::configuration(&listing.config) {
        table.row([property.to_owned(), value]);
    }
    table.render()
}

/// Releases what reports name, if a check finds it again: given out by the same allocation, and in use by nobody.
fn release_reported(store: &Store, files: &[std::path::PathBuf]) -> Outcome {
    let mut reported = Vec::new();
    for path in files {
        let fault = |e: String| format!("{}: not a report of `ipam check -o FILE`: {e}", path.display());
        let text = std::fs::read_to_string(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
        let rows: Vec<Value> = serde_json::from_str(&text).map_err(|e| fault(e.to_string()))?;
        for leak in rows.iter().map(|r| &r["leaked"]).filter(|l| !l.is_null()) {
            let leak: Leak = serde_json::from_value(leak.clone()).map_err(|e| fault(format!("leaked: {e}")))?;
            reported.push(ReleaseRequest::from(leak));
        }
    }
    let (released, changed) = store.with(async |objects| {
        let listing = Listing::read(objects).await?;
        let now = leaks(&listing, &check(&listing));
        let (held, changed): (Vec<_>, Vec<_>) = reported.into_iter().partition(|r| now.contains(r));
        let free = Ipam::new(objects, "").release(&held).await?;
        Ok((held.len() - free.len(), changed))
    })?;
    let kept = changed.iter().map(|r| format!("Left as it is: {}, which is free by now, or in use, or given out anew\n", r.address));
    print(&format!("{}Released {released} addresses\n", kept.collect::<String>()))?;
    Ok(ExitCode::SUCCESS)
}

/// An allocation that nobody uses, as a report has it.
#[derive(serde::Serialize, serde::Deserialize)]
struct Leak {
    address: IpAddr,
    handle: Option<String>,
    sequence: Option<u64>,
}

impl From<Leak> for ReleaseRequest {
    fn from(l: Leak) -> ReleaseRequest {
        ReleaseRequest { address: l.address, handle: l.handle, sequence: l.sequence }
    }
}

impl From<&ReleaseRequest> for Leak {
    fn from(r: &ReleaseRequest) -> Leak {
        Leak { address: r.address, handle: r.handle.clone(), sequence: r.sequence }
    }
}

fn release(store: &Store, ip: IpAddr, force: bool) -> Outcome {
    let released = store.with(async |objects| {
        if !force {
            let state = report::address(&Listing::read(objects).await?, ip);
            if let AddressState::Assigned(attribute) = &state
                && let Some(user) = user_of(objects, ip, attribute).await?
            {
                return Err(format!("IP address {ip} is in use by {user}; --force releases it nevertheless").into());
            }
        }
        let ipam = Ipam::new(objects, "");
        Ok(ipam.release(&[ReleaseRequest::any(ip)]).await?.is_empty())
    })?;
    if !released {
        return Err(format!("IP address {ip} is not assigned").into());
    }
    print(&format!("Successfully released IP address {ip}\n"))?;
    Ok(ExitCode::SUCCESS)
}

/// The pod that has an address now, or the node whose tunnel has it.
async fn user_of(objects: &AnyObjects, ip: IpAddr, attribute: &Attribute) -> Result<Option<String>, Box<dyn std::error::Error>> {
    let client = Client::new(objects, objects.keeps());
    let network = format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 });
    let endpoints = client.list(Kind::WorkloadEndpoint, None).await?;
    let has = |e: &&Value| e["spec"]["ipNetworks"].as_array().is_some_and(|n| n.iter().any(|n| n == &network || n == &ip.to_string()));
    if let Some(found) = endpoints.iter().find(has) {
        let name = |key: &str| found["metadata"][key].as_str().unwrap_or_default().to_owned();
        let workload = found["spec"]["pod"].as_str().map_or_else(|| name("name"), str::to_owned);
        return Ok(Some(format!("{}/{workload}", name("namespace"))));
    }
    let Some(node) = attribute.active.get("node") else { return Ok(None) };
    match client.get(Kind::Node, None, node).await {
        Ok(found) => {
            let spec = &found["spec"];
            let tunnels = [
                &spec["ipv4VXLANTunnelAddr"],
                &spec["ipv6VXLANTunnelAddr"],
                &spec["bgp"]["ipv4IPIPTunnelAddr"],
                &spec["wireguard"]["interfaceIPv4Address"],
                &spec["wireguard"]["interfaceIPv6Address"],
            ];
            let tunnel = tunnels.iter().any(|t| t.as_str() == Some(&ip.to_string()));
            Ok(tunnel.then(|| format!("a tunnel of node {node}")))
        }
        Err(Error::NotFound { .. }) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

fn configure(args: &Configure) -> Outcome {
    let mut spec = Map::new();
    let mut said = String::new();
    if let Some(strict) = args.strictaffinity {
        spec.insert("strictAffinity".into(), json!(strict));
        said.push_str(&format!("Successfully set StrictAffinity to: {strict}\n"));
    }
    if let Some(most) = args.max_blocks_per_host {
        spec.insert("maxBlocksPerHost".into(), json!(most));
        said.push_str(&format!("Successfully set MaxBlocksPerHost to: {most}\n"));
    }
    if spec.is_empty() {
        return Err("at least one configuration option must be specified: --strictaffinity, --max-blocks-per-host".into());
    }
    let patch = json!({ "spec": spec });
    args.store.with(async |objects| {
        let client = Client::new(objects, objects.keeps());
        match client.patch(Kind::IpamConfiguration, None, "default", &Patch::Merge(patch.clone())).await {
            Err(Error::NotFound { .. }) => {}
            other => return Ok(other.map(drop)?),
        }
        let mut new = json!({"metadata": {"name": "default"}, "spec": {"autoAllocateBlocks": true, "strictAffinity": false}});
        crate::control::datastore::objects::merge(&mut new, &patch);
        Ok(client.create(Kind::IpamConfiguration, new).await.map(drop)?)
    })?;
    print(&said)?;
    Ok(ExitCode::SUCCESS)
}

fn check_all(args: &Check) -> Outcome {
    let listing = args.store.with(async |objects| Ok(Listing::read(objects).await?))?;
    let findings = check(&listing);
    if let Some(path) = &args.output {
        let leaks = leaks(&listing, &findings);
        let row = |f: &Finding| {
            let mut row = json!({"severity": word(f), "finding": f.to_string(), "remedy": f.remedy()});
            if let Some(leak) = leaks.iter().find(|l| Some(l.address) == f.leaked()) {
                row["leaked"] = json!(Leak::from(leak));
            }
            row
        };
        let rows: Vec<Value> = findings.iter().map(row).collect();
        std::fs::write(path, format!("{:#}\n", Value::from(rows))).map_err(|e| format!("cannot write {}: {e}", path.display()))?;
    }
    print(&findings_text(&listing, &findings))?;
    let grave = findings.iter().any(|f| f.severity() != Severity::Note);
    Ok(if grave { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn word(finding: &Finding) -> &'static str {
    match finding.severity() {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Note => "note",
    }
}

fn findings_text(listing: &Listing, findings: &[Finding]) -> String {
    let in_use: u128 = report::utilization(listing).iter().flat_map(|p| &p.blocks).map(|b| b.in_use).sum();
    let mut out = format!(
        "Checked {} pools, {} blocks, {} affinities, {} handles: {in_use} addresses in use\n",
        listing.pools.len(),
        listing.blocks.len(),
        listing.affinities.len(),
        listing.handles.len()
    );
    for f in findings {
        out.push_str(&format!("{}: {f}\n  to do: {}\n", word(f), f.remedy()));
    }
    out.push_str(&format!("Check complete; found {} problems.\n", findings.len()));
    out
}
