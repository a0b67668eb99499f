//! Makes webhook requests out of events.
