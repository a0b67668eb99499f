//! The harness: the product as a process, small clients, and doubles of the outside world (DNS, MX).

pub mod http;
pub mod postfix;
pub mod product;
pub mod smtp;
