//! The HTTP APIs that the host answers itself: control for people (`control`), the seam for triggers (`delivery`) and
//! the reading side of the sending API (`sending`).

pub mod control;
pub mod fault;
pub mod socket;
