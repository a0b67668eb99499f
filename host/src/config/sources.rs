//! `[[source]]`: the addresses and names that mail leaves from, and which of them a route uses.

use std::net::IpAddr;
use std::sync::Arc;

use mail::Domain;

use super::load::is_tenant_name;
use super::reader::{Context, Reader};
use super::value::Count;

/// Where mail leaves from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    pub name: String,
    /// Of this machine; at most one of a kind is used. A kind that lacks is not connected from.
    pub addresses: Vec<IpAddr>,
    /// The name in EHLO; `None`: the host's.
    pub hostname: Option<Domain>,
    /// Connections at once from here.
    pub connections: usize,
    /// Its share of the mail beside other sources; 0: it is a substitute.
    pub weight: usize,
}

impl Source {
    /// The address to connect from to an address of that kind.
    pub fn address_for(&self, peer: IpAddr) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|own| own.is_ipv4() == peer.is_ipv4())
    }
}

/// One `[[source]]`.
pub(super) fn source(context: &mut Context<'_, '_>, section: &Reader<'_, '_>) -> Option<Arc<Source>> {
    section.refuse_unknown(context, &[]);
    let name: Option<String> = section.demand(context, "name");
    let addresses: Option<Vec<IpAddr>> = section.demand(context, "addresses");
    let hostname = section.get(context, "hostname");
    let connections = section.get(context, "connections").map(|Count(number)| number);
    let weight = section.get(context, "weight").map_or(0, |Count(number)| number);
    let mut faults = Vec::new();
    if let (Some(name), Some((_, value))) = (&name, section.raw("name"))
        && !is_tenant_name(name)
    {
        let text = "is no name for a source: write lower-case letters, digits, `-` and `_`, at most 64";
        faults.push((value.span(), format!("source.name: `{name}` {text}")));
    }
    if let (Some(addresses), Some((_, value))) = (&addresses, section.raw("addresses")) {
        let of_kind = |v4: bool| addresses.iter().filter(|address| address.is_ipv4() == v4).count();
        if addresses.is_empty() {
            faults.push((value.span(), "source.addresses is empty: write one, such as [\"192.0.2.1\"]".to_owned()));
        } else if of_kind(true) > 1 || of_kind(false) > 1 {
            let text = "source.addresses has two of one kind: a source has one IPv4 and one IPv6 address at most, \
                        write the others as sources of their own";
            faults.push((value.span(), text.to_owned()));
        }
    }
    let is_right = faults.is_empty();
    faults.into_iter().for_each(|(span, text)| context.faults.add(span, text));
    let source = Source { name: name?, addresses: addresses?, hostname, connections: connections?, weight };
    is_right.then(|| Arc::new(source))
}

/// Tells a name that two sources have.
pub(super) fn check_names(context: &mut Context<'_, '_>, sources: &[(Reader<'_, '_>, Option<Arc<Source>>)]) {
    for (at, (section, source)) in sources.iter().enumerate() {
        let Some(source) = source else { continue };
        let is_taken = sources[..at].iter().any(|(_, other)| other.as_ref().is_some_and(|o| o.name == source.name));
        if let (true, Some((_, value))) = (is_taken, section.raw("name")) {
            context.faults.add(value.span(), format!("source.name: there are two sources `{}`", source.name));
        }
    }
}

/// The sources that a key `sources` names, in that order.
pub(super) fn named(
    context: &mut Context<'_, '_>,
    section: &Reader<'_, '_>,
    sources: &[Arc<Source>],
) -> Vec<Arc<Source>> {
    let names: Vec<String> = section.get(context, "sources").unwrap_or_default();
    let mut found = Vec::with_capacity(names.len());
    for name in names {
        match sources.iter().find(|source| source.name == name) {
            Some(source) => found.push(source.clone()),
            None => {
                if let Some((_, value)) = section.raw("sources") {
                    let text = format!("{}: there is no [[source]] with the name `{name}`", section.full("sources"));
                    context.faults.add(value.span(), text);
                }
            }
        }
    }
    found
}
