//! The HTTP APIs that the host answers itself: control for people (`control`) and the seam for components.

pub mod control;
pub mod records;
pub mod socket;
