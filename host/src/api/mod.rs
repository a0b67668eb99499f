//! The HTTP APIs that the host answers itself: control for people (`control`), and for triggers, in-process, the
//! delivery API (`delivery`) and the reading side of the sending API (`sending`), both behind `seam`.

pub mod control;
pub(crate) mod credential;
pub mod delivery;
pub mod events;
pub mod fault;
pub mod seam;
pub mod sending;
pub mod socket;
pub mod webhooks;
