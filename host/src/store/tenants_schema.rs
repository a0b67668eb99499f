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

/// A later migration of `store.db`: see `schema`.
pub(super) const TENANTS: &str = "
ALTER TABLE tenant ADD COLUMN id TEXT;             -- `ten_` and a UUID
ALTER TABLE tenant ADD COLUMN created_ms INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tenant ADD COLUMN pause TEXT;          -- JSON: since when and why; NULL: it may send
ALTER TABLE tenant ADD COLUMN terms TEXT;          -- JSON: what it may; NULL: all that the host does
UPDATE tenant SET id = 'ten_' || lower(hex(randomblob(16))), created_ms = CAST(unixepoch() AS INTEGER) * 1000;
CREATE UNIQUE INDEX tenant_id ON tenant (id);

-- Recipients taken in each window of a quota, as of a second ago at most.
CREATE TABLE quota_usage (
  tenant  INTEGER NOT NULL,
  span    INTEGER NOT NULL,        -- 0: second, 1: hour, 2: day, 3: month
  start_s INTEGER NOT NULL,        -- of the window
  used    INTEGER NOT NULL,
  PRIMARY KEY (tenant, span)
) STRICT, WITHOUT ROWID;

ALTER TABLE api_key ADD COLUMN scopes INTEGER NOT NULL DEFAULT 7; -- 1: send, 2: read, 4: manage
ALTER TABLE api_key ADD COLUMN expires_ms INTEGER; -- NULL: never
ALTER TABLE api_key ADD COLUMN used_ms INTEGER;    -- last, to the minute; NULL: never

CREATE TABLE audit (
  seq      INTEGER PRIMARY KEY,
  at_ms    INTEGER NOT NULL,
  tenant   TEXT,                   -- whom it was about; NULL: the host
  entry    TEXT NOT NULL           -- JSON: who, from where, what, with what
) STRICT;
CREATE INDEX audit_tenant ON audit (tenant, seq);
";
