//! An HTTP trigger: an event in, the shaped and signed webhook out.
