//! Attributes as the contract promises them: bounded, later ones replace earlier ones, `posthaste.` is the host's.

use contract::Attributes;

/// Attributes of one message.
pub const COUNT: usize = 64;
/// Octets of a name, and of a value.
pub const NAME_BYTES: usize = 256;
pub const VALUE_BYTES: usize = 4096;
/// How names begin that no stage and no sender may set.
pub const RESERVED: &str = "posthaste.";

/// Adds what a stage returned. What breaks a limit, or is the host's, is left out.
pub fn merge(attributes: &mut Attributes, returned: Attributes) {
    for (name, value) in returned {
        if name.is_empty() || name.len() > NAME_BYTES || value.len() > VALUE_BYTES || name.starts_with(RESERVED) {
            continue;
        }
        if let Some((_, known)) = attributes.iter_mut().find(|(known, _)| *known == name) {
            *known = value;
        } else if attributes.len() < COUNT {
            attributes.push((name, value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    fn check(before: &[(&str, &str)], returned: &[(&str, &str)], expect: &[(&str, &str)]) {
        let own = |pairs: &[(&str, &str)]| pairs.iter().map(|(name, value)| pair(name, value)).collect::<Vec<_>>();
        let mut attributes = own(before);
        merge(&mut attributes, own(returned));
        assert_eq!(attributes, own(expect));
    }

    #[test]
    fn later_replaces_earlier() {
        check(&[("a", "1"), ("b", "2")], &[("a", "3"), ("c", "4"), ("c", "5")], &[("a", "3"), ("b", "2"), ("c", "5")]);
    }

    #[test]
    fn the_hosts_names_are_its_own() {
        check(&[("posthaste.x", "1")], &[("posthaste.x", "2"), ("posthaste.y", "3")], &[("posthaste.x", "1")]);
        check(&[], &[("posthaste", "1")], &[("posthaste", "1")]);
    }

    #[test]
    fn limits_hold() {
        let (name, value) = ("n".repeat(NAME_BYTES), "v".repeat(VALUE_BYTES));
        check(&[], &[(&name, &value)], &[(&name, &value)]);
        check(&[], &[(&format!("{name}n"), "1"), ("a", &format!("{value}v")), ("", "1")], &[]);
        let mut attributes = Attributes::new();
        merge(&mut attributes, (0..100).map(|n| pair(&n.to_string(), "")).collect());
        assert_eq!(attributes.len(), COUNT);
        merge(&mut attributes, vec![pair("0", "new"), pair("new", "")]);
        assert_eq!((attributes.len(), attributes[0].1.as_str()), (COUNT, "new"));
    }
}
