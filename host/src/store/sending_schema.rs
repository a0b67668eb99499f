//! The tables of scheduled mail, of batches, of stored templates and of domains that are to be verified.

/// A migration of `store.db`: see `schema`.
pub(super) const SCHEMA: &str = "
CREATE TABLE schedule (
  message INTEGER PRIMARY KEY,
  send_ms INTEGER NOT NULL,        -- `due_ms` of its recipients, until it is sent
  state   INTEGER NOT NULL         -- 1: waits, 2: sent, 3: canceled
) STRICT;
CREATE INDEX schedule_due ON schedule (send_ms) WHERE state = 1;

-- An idempotency key stands for a whole request, which may hold many messages.
DROP INDEX idempotency_at;
ALTER TABLE idempotency RENAME TO idempotency_before;
CREATE TABLE idempotency (
  tenant  INTEGER NOT NULL,
  key     TEXT NOT NULL,
  item    INTEGER NOT NULL,        -- place of the message in its request, from 0
  digest  TEXT NOT NULL,           -- of the request
  message BLOB NOT NULL,           -- UUID
  at_ms   INTEGER NOT NULL,
  PRIMARY KEY (tenant, key, item)
) STRICT, WITHOUT ROWID;
INSERT INTO idempotency SELECT tenant, key, 0, digest, message, at_ms FROM idempotency_before;
DROP TABLE idempotency_before;
CREATE INDEX idempotency_at ON idempotency (at_ms);

CREATE TABLE template (
  key          INTEGER PRIMARY KEY,
  id           BLOB NOT NULL UNIQUE, -- UUID
  tenant       INTEGER NOT NULL,
  alias        TEXT,
  name         TEXT NOT NULL,
  created_ms   INTEGER NOT NULL,
  updated_ms   INTEGER NOT NULL,
  published_ms INTEGER,            -- NULL: a draft
  draft        TEXT NOT NULL,      -- JSON: what is edited
  published    TEXT,               -- JSON: what is sent
  UNIQUE (tenant, alias)
) STRICT;

ALTER TABLE domain ADD COLUMN id BLOB;                              -- UUID
ALTER TABLE domain ADD COLUMN needs_proof INTEGER NOT NULL DEFAULT 0; -- 1: sends once its records are verified
ALTER TABLE domain ADD COLUMN verification TEXT;                    -- JSON: what the last look at its records found
UPDATE domain SET id = randomblob(16);
CREATE UNIQUE INDEX domain_id ON domain (id);
";
