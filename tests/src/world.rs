//! The outside world in one: the DNS that the host asks and the MX that it delivers to.
