//! The tables of operators and tenants.

/// A migration of `store.db`: see `schema`.
pub(super) const SCHEMA: &str = "
CREATE TABLE operator_key (
  hash       BLOB PRIMARY KEY,     -- SHA-256 of the key
  id         TEXT NOT NULL UNIQUE,
  name       TEXT NOT NULL,
  prefix     TEXT NOT NULL,
  created_ms INTEGER NOT NULL,
  revoked_ms INTEGER
) STRICT, WITHOUT ROWID;
";
