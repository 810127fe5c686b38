-- The last six digits of the number that a reference's message went to: whether a receipt can be of it. None where its maker's
-- ids need no such proof.
ALTER TABLE provider_references ADD COLUMN recipient {int};
