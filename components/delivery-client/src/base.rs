//! Where an edge stands below a path: one address serves several tenants so, each by an edge of its own.

use http::Uri;

/// A request's address as the edge knows it, without the path that the edge stands below: `/acme/emails` below `/acme` is
/// `/emails`. `None` where it is not below it. An empty base, or `/`, changes nothing; a slash at its end means nothing.
pub fn below(base: &str, uri: &Uri) -> Option<Uri> {
    let base = base.trim().trim_end_matches('/');
    if base.is_empty() {
        return Some(uri.clone());
    }
    let rest = uri.path_and_query()?.as_str().strip_prefix(base)?;
    let rest = match rest.as_bytes().first() {
        Some(b'/') => rest.to_owned(),
        None | Some(b'?') => format!("/{rest}"),
        // Another name that begins alike.
        Some(_) => return None,
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(rest.parse().ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn paths() {
        let check = |base: &str, uri: &str, expect: Option<&str>| {
            let found = below(base, &uri.parse().unwrap());
            assert_eq!(found.map(|uri| uri.to_string()).as_deref(), expect, "{uri} below {base}");
        };
        check("", "/emails", Some("/emails"));
        check("/", "/emails", Some("/emails"));
        check("/acme", "/acme/emails?limit=2", Some("/emails?limit=2"));
        check("/acme/", "/acme/emails", Some("/emails"));
        check("/acme", "https://edge.test/acme/emails/1", Some("https://edge.test/emails/1"));
        check("/acme", "/acme", Some("/"));
        check("/acme", "/acme?x", Some("/?x"));
        check("/acme", "/acme2/emails", None);
        check("/acme", "/emails", None);
        check("/acme", "/", None);
    }
}
