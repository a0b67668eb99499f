//! The harness: doubles of the outside world (DNS, MX) and the product as a process.
