//! The place of tracking in the pipeline: passes every message through.
