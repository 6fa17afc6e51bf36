//! Killed processes.
use crate::harness::Place;
/// Holds.
pub async fn hold_calls(_: &str) {}
/// k
pub async fn killed_server(_: Place) {}
/// k
pub async fn killed_client(_: Place) {}
