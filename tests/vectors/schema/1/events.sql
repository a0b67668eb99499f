
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
PRAGMA user_version = 1;
INSERT INTO event (message, seq, id, kind, at_ms, recipient)
             VALUES (1, 1, x'00000000000000000000000000000001', 1, 1700000000000, 'r0@a.test');
INSERT INTO event (message, seq, id, kind, at_ms, recipient)
             VALUES (2, 2, x'00000000000000000000000000000002', 1, 1700000000000, 'r0@a.test');
INSERT INTO event (message, seq, id, kind, at_ms, recipient)
             VALUES (2, 3, x'00000000000000000000000000000003', 2, 1700000000000, 'r0@a.test');
UPDATE progress SET seq = 3;
