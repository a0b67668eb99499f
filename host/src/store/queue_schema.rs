//! The tables of the queue's order, of held mail, and of bodies that moved to another segment.

/// A migration of `store.db`: see `schema`.
///
/// A recipient's lane is made of its tenant, the stream and the domain (see `lanes`). What was queued before has only
/// the tenant in it: such mail of a tenant goes in one line.
pub(super) const SCHEMA: &str = "
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
";
