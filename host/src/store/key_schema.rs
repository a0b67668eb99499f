//! What was added to API keys.

/// A migration of `store.db`: see `schema`.
pub(super) const SCHEMA: &str = "
ALTER TABLE api_key ADD COLUMN stream INTEGER;     -- 0: transactional, 1: broadcast; NULL: any that its tenant has
ALTER TABLE api_key ADD COLUMN scram TEXT;         -- SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey; NULL: not yet
";
