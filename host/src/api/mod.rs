//! The HTTP APIs that the host answers itself: control for people (`control`), and for triggers, in-process, the
//! delivery API (`delivery`) and the reading side of the sending API (`sending`), both behind `seam`. Edges reach the
//! delivery API over the network, through `network`.

pub mod control;
pub(crate) mod credential;
pub mod delivery;
pub mod fault;
pub mod network;
pub mod seam;
pub mod sending;
pub mod socket;
