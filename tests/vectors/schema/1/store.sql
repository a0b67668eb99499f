
CREATE TABLE tenant (
  key  INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE
) STRICT;
INSERT INTO tenant (name) VALUES ('default');

CREATE TABLE message (
  key         INTEGER PRIMARY KEY,
  id          BLOB NOT NULL,       -- UUID
  tenant      INTEGER NOT NULL,
  sender      TEXT,                -- NULL: the null sender
  segment     INTEGER NOT NULL,
  position    INTEGER NOT NULL,    -- of the frame in the segment
  size        INTEGER NOT NULL,    -- of the body, in octets
  digest      INTEGER NOT NULL,    -- XXH3 of the body
  accepted_ms INTEGER NOT NULL,
  extra       TEXT                 -- JSON: bcc, attributes, tags; NULL where all are empty
) STRICT;
CREATE UNIQUE INDEX message_id ON message (id);
CREATE INDEX message_tenant ON message (tenant);

CREATE TABLE recipient (
  message  INTEGER NOT NULL,
  place    INTEGER NOT NULL,       -- in the envelope, from 0
  address  TEXT NOT NULL,
  attempts INTEGER NOT NULL,
  due_ms   INTEGER,                -- NULL: done with
  done_ms  INTEGER,                -- NULL: queued
  PRIMARY KEY (message, place)
) STRICT, WITHOUT ROWID;
CREATE INDEX recipient_due ON recipient (due_ms) WHERE due_ms IS NOT NULL;

CREATE TABLE idempotency (
  tenant  INTEGER NOT NULL,
  key     TEXT NOT NULL,
  digest  TEXT NOT NULL,
  message BLOB NOT NULL,           -- UUID
  at_ms   INTEGER NOT NULL,
  PRIMARY KEY (tenant, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_at ON idempotency (at_ms);

-- Events until they have moved to events.db. Its columns are those of `event` there.
CREATE TABLE outbox (
  message       INTEGER NOT NULL,
  seq           INTEGER NOT NULL,  -- order of recording, over both databases
  id            BLOB NOT NULL,     -- UUID
  kind          INTEGER NOT NULL,
  at_ms         INTEGER NOT NULL,
  recipient     TEXT NOT NULL,
  reason        TEXT,
  attempt       INTEGER,           -- NULL: no attempt was made, and all below is NULL too
  verdict       INTEGER,
  phase         INTEGER,
  status        INTEGER,           -- class * 1000000 + subject * 1000 + detail
  text          TEXT,
  remote_host   TEXT,
  tls           TEXT,
  reply_code    INTEGER,
  reply_status  INTEGER,
  reply_text    TEXT,
  PRIMARY KEY (message, seq)
) STRICT, WITHOUT ROWID;

-- A segment file that holds committed bodies, and the first of its messages: the others follow up to the next segment's.
CREATE TABLE segment (
  number        INTEGER PRIMARY KEY,
  first_message INTEGER NOT NULL
) STRICT;

CREATE TABLE api_key (
  hash       BLOB PRIMARY KEY,     -- SHA-256 of the key
  id         TEXT NOT NULL UNIQUE,
  tenant     INTEGER NOT NULL,
  name       TEXT NOT NULL,
  prefix     TEXT NOT NULL,
  created_ms INTEGER NOT NULL,
  revoked_ms INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE domain (
  key        INTEGER PRIMARY KEY,
  tenant     INTEGER NOT NULL,
  name       TEXT NOT NULL,
  created_ms INTEGER NOT NULL,
  UNIQUE (tenant, name)
) STRICT;

CREATE TABLE dkim_key (
  id        TEXT PRIMARY KEY,
  domain    INTEGER NOT NULL REFERENCES domain (key) ON DELETE CASCADE,
  selector  TEXT NOT NULL,
  algorithm INTEGER NOT NULL,
  public    BLOB NOT NULL,
  private   BLOB NOT NULL,         -- sealed; empty for the key of an edge
  UNIQUE (domain, selector)
) STRICT;
PRAGMA user_version = 1;
INSERT INTO message VALUES (1, x'00000000000000000000000000000001', 1, 'sender@example.com', 1, 0, 22, 7681980180978636193, 1700000000000, NULL);
INSERT INTO recipient (message, place, address, attempts, due_ms, done_ms)
             VALUES (1, 0, 'r0@a.test', 2, 1700000060000, NULL);
INSERT INTO message VALUES (2, x'00000000000000000000000000000002', 1, 'sender@example.com', 1, 70, 22, -6254039167451628800, 1700000000000, NULL);
INSERT INTO recipient (message, place, address, attempts, due_ms, done_ms)
             VALUES (2, 0, 'r0@a.test', 1, NULL, 1700000001000);
INSERT INTO segment VALUES (1, 1);
INSERT INTO outbox (message, seq, id, kind, at_ms, recipient)
             VALUES (1, 4, x'00000000000000000000000000000004', 3, 1700000000000, 'r0@a.test');
INSERT INTO idempotency (tenant, key, digest, message, at_ms)
         VALUES (1, 'k', 'd', x'00000000000000000000000000000001', 1700000000000);
INSERT INTO domain (key, tenant, name, created_ms) VALUES (1, 1, 'example.com', 1);
INSERT INTO dkim_key (id, domain, selector, algorithm, public, private) VALUES ('dkim_1', 1, 's', 2, x'01', x'02');
