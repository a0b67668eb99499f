//! Values of the configuration file: each reads itself from TOML, or says what to write instead.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mail::Domain;
use toml::Spanned;
use toml::de::DeValue;

use crate::edge::granted_host;

use super::{Bounces, IpNet, OnFailure, RelayHost, RouteDomain, TlsPolicy};

/// What is wrong with a value, and where in the file it stands.
pub(super) type Wrong = Vec<(Range<usize>, String)>;

/// What a value may need from outside of the file.
pub(super) struct Surroundings<'a> {
    /// Folder of the configuration file: relative paths start here.
    pub folder: &'a Path,
    /// Environment variables.
    pub env: &'a dyn Fn(&str) -> Option<String>,
}

/// A type that can be written in the configuration file.
pub(super) trait Setting: Sized {
    fn read(value: &Spanned<DeValue<'_>>, around: &Surroundings<'_>) -> Result<Self, Wrong>;
}

/// A size in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ByteSize(pub u64);

/// A number that is at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Count(pub usize);

/// A port that is not 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Port(pub u16);

/// A file that is there and can be opened.
pub(super) struct ReadableFile(pub PathBuf);

/// A host that a stage is granted, as `name` or `name:port`.
pub(super) struct GrantedHost(pub String);

/// `host:port` of a relay.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct HostPort(pub RelayHost, pub u16);

/// Implements `Setting` for types that are written as a string.
macro_rules! from_text {
    ($type:ty, $example:literal, $read:expr) => {
        impl Setting for $type {
            fn read(value: &Spanned<DeValue<'_>>, around: &Surroundings<'_>) -> Result<Self, Wrong> {
                let text = text_of(value, $example)?;
                let read: fn(&str, &Surroundings<'_>) -> Result<$type, String> = $read;
                read(text, around).map_err(|wrong| vec![(value.span(), wrong)])
            }
        }
    };
}

from_text!(String, "some text", |text, _| Ok(text.to_owned()));
from_text!(PathBuf, "some/folder", |text, around| path(text, around));
from_text!(ReadableFile, "some/file", |text, around| readable(path(text, around)?));
from_text!(Domain, "mail.example.com", |text, _| domain(text));
from_text!(SocketAddr, "127.0.0.1:8080", |text, _| socket_address(text));
from_text!(IpAddr, "192.0.2.1", |text, _| {
    text.parse().map_err(|_| format!("`{text}` is not an address: write for example \"192.0.2.1\" or \"2001:db8::1\""))
});
from_text!(IpNet, "192.0.2.0/24", |text, _| network(text));
from_text!(Duration, "30s", |text, _| duration(text));
from_text!(TlsPolicy, "opportunistic", |text, _| tls_policy(text));
from_text!(Bounces, "report", |text, _| bounces(text));
from_text!(OnFailure, "defer", |text, _| on_failure(text));
from_text!(RouteDomain, "example.com", |text, _| route_domain(text));
from_text!(GrantedHost, "keys.example.com", |text, _| granted_host(text).map(|_| GrantedHost(text.to_owned())));
from_text!(HostPort, "smtp.example.com:587", |text, _| host_port(text));

impl Setting for bool {
    fn read(value: &Spanned<DeValue<'_>>, _: &Surroundings<'_>) -> Result<Self, Wrong> {
        match value.get_ref() {
            DeValue::Boolean(answer) => Ok(*answer),
            _ => Err(wrong_type(value, "true or false")),
        }
    }
}

impl Setting for ByteSize {
    fn read(value: &Spanned<DeValue<'_>>, _: &Surroundings<'_>) -> Result<Self, Wrong> {
        match value.get_ref() {
            DeValue::Integer(number) => size(number.as_str()),
            DeValue::String(text) => size(text),
            _ => return Err(wrong_type(value, "a size such as \"25MiB\"")),
        }
        .map_err(|wrong| vec![(value.span(), wrong)])
    }
}

impl Setting for Count {
    fn read(value: &Spanned<DeValue<'_>>, _: &Surroundings<'_>) -> Result<Self, Wrong> {
        match integer(value, "a whole number such as 10")? {
            number @ 1..=1_000_000_000 => Ok(Count(usize::try_from(number).unwrap_or(usize::MAX))),
            number => {
                Err(vec![(value.span(), format!("{number} is out of range: write a number from 1 to 1000000000"))])
            }
        }
    }
}

impl Setting for Port {
    fn read(value: &Spanned<DeValue<'_>>, _: &Surroundings<'_>) -> Result<Self, Wrong> {
        let number = integer(value, "a port such as 25")?;
        match u16::try_from(number) {
            Ok(port) if port > 0 => Ok(Port(port)),
            _ => Err(vec![(value.span(), format!("{number} is not a port: write a number from 1 to 65535"))]),
        }
    }
}

/// A list; one item may stand without brackets. Every item that is wrong is told.
impl<T: Setting> Setting for Vec<T> {
    fn read(value: &Spanned<DeValue<'_>>, around: &Surroundings<'_>) -> Result<Self, Wrong> {
        let DeValue::Array(items) = value.get_ref() else {
            return Ok(vec![T::read(value, around)?]);
        };
        let mut read = Vec::with_capacity(items.len());
        let mut wrong = Wrong::new();
        for item in items.iter() {
            match T::read(item, around) {
                Ok(item) => read.push(item),
                Err(more) => wrong.extend(more),
            }
        }
        if wrong.is_empty() { Ok(read) } else { Err(wrong) }
    }
}

fn text_of<'v>(value: &'v Spanned<DeValue<'_>>, example: &str) -> Result<&'v str, Wrong> {
    match value.get_ref() {
        DeValue::String(text) => Ok(text),
        _ => Err(wrong_type(value, &format!("a string such as \"{example}\""))),
    }
}

fn integer(value: &Spanned<DeValue<'_>>, wanted: &str) -> Result<i64, Wrong> {
    match value.get_ref() {
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_err(|_| vec![(value.span(), format!("{number} is out of range: write {wanted}"))]),
        _ => Err(wrong_type(value, wanted)),
    }
}

fn wrong_type(value: &Spanned<DeValue<'_>>, wanted: &str) -> Wrong {
    let is = match value.get_ref() {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a broken number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    };
    vec![(value.span(), format!("this is {is}: write {wanted}"))]
}

fn path(text: &str, around: &Surroundings<'_>) -> Result<PathBuf, String> {
    match text {
        "" => Err("the path is empty: write one, such as \"/var/lib/posthaste\"".to_owned()),
        text if text.contains('\0') => Err("a path cannot hold a NUL character".to_owned()),
        text => Ok(around.folder.join(text)),
    }
}

fn readable(file: PathBuf) -> Result<ReadableFile, String> {
    let open = std::fs::File::open(&file).and_then(|opened| opened.metadata());
    match open {
        Ok(data) if data.is_dir() => Err(format!("{} is a folder: write the path of a file", file.display())),
        Ok(_) => Ok(ReadableFile(file)),
        Err(error) => Err(format!("cannot read {}: {}", file.display(), io_text(&error))),
    }
}

/// An I/O error in words, without the number of the system.
pub(super) fn io_text(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "there is no such file".to_owned(),
        std::io::ErrorKind::PermissionDenied => "this user may not read it".to_owned(),
        _ => error.to_string(),
    }
}

fn domain(text: &str) -> Result<Domain, String> {
    match Domain::parse(text) {
        Ok(domain) if domain.is_literal() => {
            Err(format!("`{text}` is an address: write a name such as \"mail.example.com\""))
        }
        Ok(domain) => Ok(domain),
        Err(error) => Err(format!("{error}: write a name such as \"mail.example.com\"")),
    }
}

fn socket_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        let port = text.rsplit_once(':').map_or(text, |(_, port)| port).parse::<u16>();
        match port {
            Ok(port) if text.starts_with("localhost") => {
                format!("`{text}` is a name: write the address, \"127.0.0.1:{port}\"")
            }
            Ok(port) if text.matches(':').count() < 2 => {
                format!(
                    "`{text}` is not address:port: write \"127.0.0.1:{port}\", or \"0.0.0.0:{port}\" for all interfaces"
                )
            }
            Ok(_) => format!("`{text}` is not address:port: an IPv6 address stands in brackets, as in \"[::1]:8080\""),
            Err(_) if text.parse::<IpAddr>().is_ok() => {
                format!("`{text}` lacks a port: write address:port, as in \"127.0.0.1:8080\"")
            }
            Err(_) => format!("`{text}` is not address:port: write for example \"127.0.0.1:8080\""),
        }
    })
}

fn network(text: &str) -> Result<IpNet, String> {
    let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
    let wrong = || format!("`{text}` is not an address block: write for example \"192.0.2.0/24\" or \"2001:db8::/32\"");
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let prefix: u8 = prefix.map_or(Ok(most), |prefix| prefix.parse().map_err(|_| wrong()))?;
    if prefix > most {
        return Err(format!("`{text}`: the prefix is at most {most}"));
    }
    let net = IpNet { address, prefix };
    if first_of(net) != address {
        return Err(format!("`{text}` has bits set behind its prefix: write \"{}/{prefix}\"", first_of(net)));
    }
    Ok(net)
}

/// The first address of a block.
fn first_of(net: IpNet) -> IpAddr {
    let keep = |bits: u32, width: u32| if bits == 0 { 0 } else { u128::MAX << (width - bits) };
    match net.address {
        IpAddr::V4(v4) => {
            let mask = (keep(u32::from(net.prefix), 32) & u128::from(u32::MAX)) as u32;
            IpAddr::V4((u32::from(v4) & mask).into())
        }
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) & keep(u32::from(net.prefix), 128)).into()),
    }
}

/// The longest duration that makes sense anywhere here.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// Reads `30s` and the like.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong =
        || format!("`{text}` is not a duration: write a number and a unit, such as \"30s\", \"5m\", \"4h\" or \"5d\"");
    let (number, unit) = number_and_unit(text).ok_or_else(wrong)?;
    let unit_ms: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(wrong()),
    };
    let duration = number.checked_mul(unit_ms).map(Duration::from_millis);
    match duration {
        Some(Duration::ZERO) => Err(format!("`{text}` is no time at all: write at least \"1ms\"")),
        Some(duration) if duration <= LONGEST => Ok(duration),
        _ => Err(format!("`{text}` is longer than a year")),
    }
}

/// Reads `25MiB` and the like.
fn size(text: &str) -> Result<ByteSize, String> {
    let wrong = || format!("`{text}` is not a size: write a number and a unit, such as \"64KiB\" or \"25MiB\"");
    let (number, unit) = number_and_unit(text).ok_or_else(wrong)?;
    let unit: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        _ => return Err(wrong()),
    };
    match number.checked_mul(unit) {
        Some(0) => Err(format!("`{text}` lets nothing through: write at least \"1KiB\"")),
        Some(bytes) if bytes <= 1 << 40 => Ok(ByteSize(bytes)),
        _ => Err(format!("`{text}` is more than 1024GiB")),
    }
}

fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, text[end..].trim_start()))
}

fn on_failure(text: &str) -> Result<OnFailure, String> {
    match text {
        "defer" => Ok(OnFailure::Defer),
        "fallback" => Ok(OnFailure::Fallback),
        "reject" => Ok(OnFailure::Reject),
        _ => Err(format!("`{text}` is none of `defer`, `fallback`, `reject`")),
    }
}

fn tls_policy(text: &str) -> Result<TlsPolicy, String> {
    match text {
        "off" => Ok(TlsPolicy::Off),
        "opportunistic" => Ok(TlsPolicy::Opportunistic),
        "require" => Ok(TlsPolicy::Require),
        "verify" => Ok(TlsPolicy::Verify),
        _ => Err(format!("`{text}` is not a TLS policy: write \"off\", \"opportunistic\", \"require\" or \"verify\"")),
    }
}

fn bounces(text: &str) -> Result<Bounces, String> {
    match text {
        "report" => Ok(Bounces::Report),
        "events" => Ok(Bounces::Events),
        _ => Err(format!("`{text}` is no way to tell of failures: write \"report\" or \"events\"")),
    }
}

fn route_domain(text: &str) -> Result<RouteDomain, String> {
    match text.strip_prefix("*.") {
        _ if text == "*" => Ok(RouteDomain::Any),
        Some(parent) => domain(parent).map(RouteDomain::Below),
        None => domain(text).map(RouteDomain::Exact),
    }
}

fn host_port(text: &str) -> Result<HostPort, String> {
    let wrong = || format!("`{text}` is not host:port: write for example \"smtp.example.com:587\" or \"192.0.2.1:25\"");
    if let Ok(address) = text.parse::<SocketAddr>() {
        return match address.port() {
            0 => Err(wrong()),
            port => Ok(HostPort(RelayHost::Ip(address.ip()), port)),
        };
    }
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port = port.parse().ok().filter(|port| *port > 0).ok_or_else(wrong)?;
    if host.contains(':') {
        return Err(format!(
            "`{text}` is not host:port: an IPv6 address stands in brackets, as in \"[2001:db8::1]:25\""
        ));
    }
    Domain::parse(host).map(|name| HostPort(RelayHost::Name(name), port)).map_err(|_| wrong())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let check = |text: &str, expect: Option<u64>| {
            assert_eq!(duration(text).ok(), expect.map(Duration::from_millis), "{text}");
        };
        check("30s", Some(30_000));
        check("500ms", Some(500));
        check("5m", Some(300_000));
        check("4 h", Some(14_400_000));
        check("5d", Some(432_000_000));
        check("0s", None);
        check("30", None);
        check("", None);
        check("s", None);
        check("-5s", None);
        check("1w", None);
        check("99999999999999999999s", None);
        check("18446744073709551615d", None);
        check("367d", None);
    }

    #[test]
    fn sizes() {
        let check = |text: &str, expect: Option<u64>| assert_eq!(size(text).ok(), expect.map(ByteSize), "{text}");
        check("25MiB", Some(25 << 20));
        check("1kb", Some(1000));
        check("4096", Some(4096));
        check("1 GiB", Some(1 << 30));
        check("0", None);
        check("2TiB", None);
        check("99999999999GiB", None);
        check("much", None);
    }

    #[test]
    fn networks() {
        let check = |text: &str, expect: Result<(&str, u8), &str>| match (network(text), expect) {
            (Ok(net), Ok((address, prefix))) => {
                assert_eq!(net, IpNet { address: address.parse().unwrap(), prefix }, "{text}");
            }
            (Err(wrong), Err(part)) => assert!(wrong.contains(part), "{text}: {wrong}"),
            (got, _) => panic!("{text}: {got:?}"),
        };
        check("10.0.0.0/8", Ok(("10.0.0.0", 8)));
        check("127.0.0.1", Ok(("127.0.0.1", 32)));
        check("127.0.0.1/32", Ok(("127.0.0.1", 32)));
        check("::1", Ok(("::1", 128)));
        check("0.0.0.0/0", Ok(("0.0.0.0", 0)));
        check("::/0", Ok(("::", 0)));
        check("2001:db8::/32", Ok(("2001:db8::", 32)));
        check("10.0.0.0/33", Err("at most 32"));
        check("10.1.2.3/8", Err("write \"10.0.0.0/8\""));
        check("2001:db8::1/32", Err("write \"2001:db8::/32\""));
        check("ten", Err("address block"));
        check("10.0.0.0/x", Err("address block"));
    }

    #[test]
    fn listen_addresses_say_what_to_write() {
        let check = |text: &str, part: &str| {
            let wrong = socket_address(text).unwrap_err();
            assert!(wrong.contains(part), "{text}: {wrong}");
        };
        check(":8080", "\"0.0.0.0:8080\"");
        check("8080", "\"127.0.0.1:8080\"");
        check("localhost:8080", "\"127.0.0.1:8080\"");
        check("::1:8080", "brackets");
        check("127.0.0.1", "lacks a port");
        check("127.0.0.1:99999", "not address:port");
        assert_eq!(socket_address("[::1]:25").unwrap().port(), 25);
    }

    #[test]
    fn relays() {
        let name = |text: &str| RelayHost::Name(Domain::parse(text).unwrap());
        assert_eq!(host_port("192.0.2.1:25"), Ok(HostPort(RelayHost::Ip("192.0.2.1".parse().unwrap()), 25)));
        assert_eq!(host_port("[2001:db8::1]:25"), Ok(HostPort(RelayHost::Ip("2001:db8::1".parse().unwrap()), 25)));
        assert_eq!(host_port("smtp.example.com:587"), Ok(HostPort(name("smtp.example.com"), 587)));
        for wrong in ["smtp.example.com", "smtp.example.com:0", "192.0.2.1:0", "2001:db8::1:25", ":25", "a b:25"] {
            assert!(host_port(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn route_domains() {
        let domain = Domain::parse("example.com").unwrap();
        assert_eq!(route_domain("*"), Ok(RouteDomain::Any));
        assert_eq!(route_domain("*.Example.com"), Ok(RouteDomain::Below(domain.clone())));
        assert_eq!(route_domain("example.com"), Ok(RouteDomain::Exact(domain)));
        assert!(route_domain("*example.com").is_err());
        assert!(route_domain("*.*").is_err());
    }
}
