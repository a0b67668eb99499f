
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


CREATE TABLE delivery_token (
  hash       BLOB PRIMARY KEY,     -- SHA-256 of the token
  id         TEXT NOT NULL UNIQUE,
  tenant     INTEGER,              -- NULL: for every tenant
  name       TEXT NOT NULL,
  prefix     TEXT NOT NULL,
  created_ms INTEGER NOT NULL,
  revoked_ms INTEGER
) STRICT, WITHOUT ROWID;


CREATE TABLE webhook (
  key          INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used again: deliveries in events.db name it
  id           TEXT NOT NULL UNIQUE,
  tenant       INTEGER NOT NULL,
  url          TEXT NOT NULL,
  kinds        INTEGER NOT NULL,                   -- bit 1 << kind for each kind of event it wants
  secret       BLOB NOT NULL,                      -- sealed
  old_secret   BLOB,                               -- the one before, sealed
  old_until_ms INTEGER,
  status       INTEGER NOT NULL,                   -- 1 enabled, 2 disabled, 3 paused
  reason       TEXT,
  created_ms   INTEGER NOT NULL
) STRICT;
CREATE INDEX webhook_tenant ON webhook (tenant);


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


ALTER TABLE recipient ADD COLUMN lane INTEGER NOT NULL DEFAULT 0;
UPDATE recipient SET lane = coalesce((SELECT m.tenant FROM message m WHERE m.key = recipient.message), 0) << 33
WHERE due_ms IS NOT NULL;
DROP INDEX recipient_due;
CREATE INDEX recipient_lane ON recipient (lane, due_ms, message, place) WHERE due_ms IS NOT NULL;
-- Held by the operator: neither due nor done with.
CREATE INDEX recipient_held ON recipient (lane, message, place) WHERE due_ms IS NULL AND done_ms IS NULL;

-- Bodies that lie in another segment than that of their neighbours, because theirs was emptied for its space.
CREATE TABLE moved (
  segment INTEGER NOT NULL,        -- where it is now
  message INTEGER NOT NULL,
  PRIMARY KEY (segment, message)
) STRICT, WITHOUT ROWID;


CREATE TABLE operator_key (
  hash       BLOB PRIMARY KEY,     -- SHA-256 of the key
  id         TEXT NOT NULL UNIQUE,
  name       TEXT NOT NULL,
  prefix     TEXT NOT NULL,
  created_ms INTEGER NOT NULL,
  revoked_ms INTEGER
) STRICT, WITHOUT ROWID;


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


CREATE TABLE component (
  key       INTEGER PRIMARY KEY,
  tenant    INTEGER NOT NULL,
  stage     TEXT NOT NULL,         -- as in [components]
  version   INTEGER NOT NULL,      -- from 1 for each tenant and stage
  digest    TEXT NOT NULL,         -- SHA-256 in hexadecimal, the name of the file
  size      INTEGER NOT NULL,      -- of the file, in octets
  source    TEXT NOT NULL,         -- the file name or URL that it came from
  pushed_ms INTEGER NOT NULL,
  state     INTEGER NOT NULL,
  percent   INTEGER NOT NULL,      -- of requests that a canary answers; 0 for all others
  note      TEXT,                  -- why it came to its state, where somebody should know
  UNIQUE (tenant, stage, version)
) STRICT;

CREATE TABLE stage_settings (
  tenant   INTEGER NOT NULL,
  stage    TEXT NOT NULL,          -- empty: the limits of the tenant, for all its stages
  settings TEXT NOT NULL,          -- JSON
  PRIMARY KEY (tenant, stage)
) STRICT, WITHOUT ROWID;


ALTER TABLE api_key ADD COLUMN stream INTEGER;     -- 0: transactional, 1: broadcast; NULL: any that its tenant has
ALTER TABLE api_key ADD COLUMN scram TEXT;         -- SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey; NULL: not yet

ALTER TABLE message ADD COLUMN request TEXT;

ALTER TABLE dkim_key ADD COLUMN state INTEGER NOT NULL DEFAULT 2;      -- 1: pending, 2: active, 3: retiring, 4: retired
ALTER TABLE dkim_key ADD COLUMN created_ms INTEGER NOT NULL DEFAULT 0;
ALTER TABLE dkim_key ADD COLUMN switched_ms INTEGER;                   -- retiring: when it stopped to sign
ALTER TABLE dkim_key ADD COLUMN retire_ms INTEGER;                     -- retiring: until when its record must stay
UPDATE dkim_key SET created_ms = (SELECT d.created_ms FROM domain d WHERE d.key = dkim_key.domain);

ALTER TABLE domain ADD COLUMN check_ms INTEGER NOT NULL DEFAULT 0;     -- when its records are looked at next
CREATE INDEX domain_check ON domain (check_ms);

-- A name in DNS is for one key, for good: caches and mail on its way remember it.
CREATE TABLE used_selector (
  tenant   INTEGER NOT NULL,
  domain   TEXT NOT NULL,
  selector TEXT NOT NULL,
  public   BLOB NOT NULL,
  PRIMARY KEY (tenant, domain, selector)
) STRICT, WITHOUT ROWID;
INSERT INTO used_selector
SELECT d.tenant, d.name, k.selector, k.public FROM dkim_key k JOIN domain d ON d.key = k.domain;


ALTER TABLE component ADD COLUMN activated INTEGER; -- grows within a tenant's stage; NULL: never active, or taken back since
UPDATE component SET activated = version WHERE state IN (0, 1);
PRAGMA user_version = 12;
INSERT INTO message (key, id, tenant, sender, segment, position, size, digest, accepted_ms, extra)
             VALUES (1, x'00000000000000000000000000000001', 1, 'sender@example.com', 1, 0, 22, 7681980180978636193, 1700000000000, NULL);
INSERT INTO recipient (message, place, address, attempts, due_ms, done_ms, lane)
             VALUES (1, 0, 'r0@a.test', 2, 1700000060000, NULL, 9119046314);
INSERT INTO message (key, id, tenant, sender, segment, position, size, digest, accepted_ms, extra)
             VALUES (2, x'00000000000000000000000000000002', 1, 'sender@example.com', 1, 70, 22, -6254039167451628800, 1700000000000, NULL);
INSERT INTO recipient (message, place, address, attempts, due_ms, done_ms, lane)
             VALUES (2, 0, 'r0@a.test', 1, NULL, 1700000001000, 9119046314);
INSERT INTO message (key, id, tenant, sender, segment, position, size, digest, accepted_ms, extra)
             VALUES (3, x'00000000000000000000000000000003', 1, 'sender@example.com', 1, 140, 22, -418503867425524707, 1700000000000, NULL);
INSERT INTO recipient (message, place, address, attempts, due_ms, done_ms, lane)
             VALUES (3, 0, 'r0@a.test', 0, 1700000060000, NULL, 9119046314);
INSERT INTO segment VALUES (1, 1);
INSERT INTO outbox (message, seq, id, kind, at_ms, recipient)
             VALUES (1, 4, x'00000000000000000000000000000004', 3, 1700000000000, 'r0@a.test');
INSERT INTO idempotency (tenant, key, digest, message, at_ms, item)
         VALUES (1, 'k', 'd', x'00000000000000000000000000000001', 1700000000000, 0);
INSERT INTO domain (key, tenant, name, created_ms) VALUES (1, 1, 'example.com', 1);
INSERT INTO dkim_key (id, domain, selector, algorithm, public, private) VALUES ('dkim_1', 1, 's', 2, x'01', x'02');
UPDATE domain SET id = x'00000000000000000000000000000001';
INSERT INTO schedule VALUES (3, 1700000060000, 1);
INSERT INTO outbox (message, seq, id, kind, at_ms, recipient)
             VALUES (3, 5, x'00000000000000000000000000000005', 8, 1700000000000, 'r0@a.test');
INSERT INTO api_key (hash, id, tenant, name, prefix, created_ms, stream) VALUES (x'07', 'key_1', 1, 'k', 'ph_1', 1, 1);
UPDATE message SET request = '{"envid":"QQ314159"}' WHERE key = 3;
UPDATE dkim_key SET state = 3, created_ms = 1, switched_ms = 2, retire_ms = 3;
UPDATE domain SET check_ms = 4;
INSERT INTO used_selector VALUES (1, 'example.com', 'old', x'03');
INSERT INTO component (tenant, stage, version, digest, size, source, pushed_ms, state, percent, activated)
                 VALUES (1, 'validator', 1, 'd1', 1, 'a.wasm', 1, 0, 0, 3);
INSERT INTO component (tenant, stage, version, digest, size, source, pushed_ms, state, percent, activated)
                 VALUES (1, 'validator', 2, 'd2', 1, 'a.wasm', 1, 0, 0, 2);
INSERT INTO component (tenant, stage, version, digest, size, source, pushed_ms, state, percent, activated)
                 VALUES (1, 'validator', 3, 'd3', 1, 'a.wasm', 1, 1, 0, 4);
