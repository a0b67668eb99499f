//! Other people's software as the judge: clients that submit, verifiers, a server that receives, a browser.

#![allow(clippy::unwrap_used)]

mod browser;
mod clients;
mod receivers;
mod reports;
mod scripts;
mod sending;
mod webhooks;
