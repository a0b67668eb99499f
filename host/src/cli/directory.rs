//! What the commands about tenants have in common: whose it is, and how answers are printed.

use clap::Args;
use jiff::Timestamp;

use super::{Failure, say};
use crate::DEFAULT_TENANT;

/// One tenant, or all where none is named.
#[derive(Clone, Debug, Args)]
pub(crate) struct OfTenant {
    /// The tenant: lower-case letters, digits, `-` and `_`.
    #[arg(long, value_name = "NAME")]
    pub(super) tenant: Option<String>,
}

impl OfTenant {
    pub(super) fn query(&self) -> String {
        self.tenant.as_ref().map_or(String::new(), |tenant| format!("?tenant={}", encode(tenant)))
    }
}

/// The one tenant that is meant.
#[derive(Clone, Debug, Args)]
pub(crate) struct ForTenant {
    /// The tenant: lower-case letters, digits, `-` and `_`.
    #[arg(long, value_name = "NAME", default_value = DEFAULT_TENANT)]
    pub(super) tenant: String,
}

/// Escapes what a user typed for a place in a path or query.
pub(super) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

pub(super) fn waiting(recipients: u64) -> String {
    match recipients {
        0 => "nothing waits".to_owned(),
        1 => "1 recipient waits".to_owned(),
        more => format!("{more} recipients wait"),
    }
}

/// `2d 3h`, `3h 4m`, `4m 5s`, `5s`.
pub(super) fn duration(seconds: u64) -> String {
    let units = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let mut rest = seconds;
    let mut parts = Vec::new();
    for (size, name) in units {
        if rest >= size || (size == 1 && parts.is_empty()) {
            parts.push(format!("{}{name}", rest / size));
            rest %= size;
        }
    }
    parts.truncate(2);
    parts.join(" ")
}

pub(super) fn day(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d").to_string()
}

/// Prints rows in columns as wide as their widest cell.
pub(super) fn table<const N: usize>(head: [&str; N], rows: impl Iterator<Item = [String; N]>) -> Result<(), Failure> {
    let rows: Vec<[String; N]> = std::iter::once(head.map(str::to_owned)).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    for row in &rows {
        let line: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        say(line.join("  ").trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_for_people() {
        let check = |seconds, expect| assert_eq!(duration(seconds), expect);
        check(0, "0s");
        check(59, "59s");
        check(61, "1m 1s");
        check(3_600, "1h");
        check(180_000, "2d 2h");
    }

    #[test]
    fn what_users_type_is_escaped() {
        assert_eq!(encode("example.com"), "example.com");
        assert_eq!(encode("a/b?c=ü"), "a%2Fb%3Fc%3D%C3%BC");
    }
}
