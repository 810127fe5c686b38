-- Breaks: events name the line of a callback since, and older programs can only read the first one.
-- Callbacks of messages stand in lines by the hosts of their addresses; 0 for the one line of any other webhook.
ALTER TABLE webhook_parcels ADD COLUMN lane {int} NOT NULL DEFAULT 0;
CREATE INDEX webhook_parcels_by_lane ON webhook_parcels (webhook, dead, lane, seq, place);
