
CREATE TABLE event (
  message       INTEGER NOT NULL,
  seq           INTEGER NOT NULL,
  id            BLOB NOT NULL,
  kind          INTEGER NOT NULL,
  at_ms         INTEGER NOT NULL,
  recipient     TEXT NOT NULL,
  reason        TEXT,
  attempt       INTEGER,
  verdict       INTEGER,
  phase         INTEGER,
  status        INTEGER,
  text          TEXT,
  remote_host   TEXT,
  tls           TEXT,
  reply_code    INTEGER,
  reply_status  INTEGER,
  reply_text    TEXT,
  PRIMARY KEY (message, seq)
) STRICT, WITHOUT ROWID;

-- The highest seq that ever arrived here: numbers go on from it when the outbox is empty.
CREATE TABLE progress (one INTEGER PRIMARY KEY CHECK (one = 1), seq INTEGER NOT NULL) STRICT;
INSERT INTO progress VALUES (1, 0);


ALTER TABLE event ADD COLUMN tenant INTEGER;
CREATE INDEX event_tenant ON event (tenant, seq) WHERE tenant IS NOT NULL;
CREATE INDEX event_id ON event (id);

CREATE TABLE delivery (
  webhook  INTEGER NOT NULL,
  seq      INTEGER NOT NULL,     -- the event's
  message  INTEGER NOT NULL,
  due_ms   INTEGER NOT NULL,
  attempts INTEGER NOT NULL,
  PRIMARY KEY (webhook, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX delivery_due ON delivery (webhook, due_ms, seq);

CREATE TABLE attempt (
  key         INTEGER PRIMARY KEY,
  webhook     INTEGER NOT NULL,
  message     INTEGER,           -- NULL: a test
  event       BLOB NOT NULL,     -- UUID
  kind        INTEGER NOT NULL,
  number      INTEGER NOT NULL,
  at_ms       INTEGER NOT NULL,
  duration_ms INTEGER NOT NULL,
  status      INTEGER,           -- NULL: no answer
  error       TEXT,
  head        TEXT NOT NULL,
  next_ms     INTEGER            -- NULL: none follows
) STRICT;
CREATE INDEX attempt_webhook ON attempt (webhook, key);
CREATE INDEX attempt_message ON attempt (message) WHERE message IS NOT NULL;

-- Endpoints whose last attempt failed.
CREATE TABLE failing (
  webhook  INTEGER PRIMARY KEY,
  failures INTEGER NOT NULL,     -- in a row
  since_ms INTEGER NOT NULL
) STRICT;


-- Events of kinds that few have. Every recipient has an email.sent (kind 1): event_tenant finds those as quickly.
CREATE INDEX event_kind ON event (tenant, kind, seq) WHERE kind > 1;

-- Of a delivery that is tried again: what is told of the message's header, whose body may be gone by then.
ALTER TABLE delivery ADD COLUMN head BLOB;
PRAGMA user_version = 3;
INSERT INTO event (message, seq, id, kind, at_ms, recipient)
             VALUES (1, 1, x'00000000000000000000000000000001', 1, 1700000000000, 'r0@a.test');
INSERT INTO event (message, seq, id, kind, at_ms, recipient)
             VALUES (2, 2, x'00000000000000000000000000000002', 1, 1700000000000, 'r0@a.test');
INSERT INTO event (message, seq, id, kind, at_ms, recipient)
             VALUES (2, 3, x'00000000000000000000000000000003', 2, 1700000000000, 'r0@a.test');
UPDATE progress SET seq = 3;
