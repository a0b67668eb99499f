//! Whether the certificate of `[tls]` can be used, and what peers that verify will say to it.

use super::Finding;
use crate::config::Config;

/// The pair is readable, matches, is valid now and for our name.
pub(super) fn pair(_config: &Config) -> Vec<Finding> {
    Vec::new()
}
