-- Until when a sweeper is at work on a delivery. It stood in next_check_at, so that each lease wrote into both indexes
-- of the table, a page each where what is due lies far apart; no index holds this column, and a row's next version
-- finds room beside it. No row is rewritten.
ALTER TABLE delivery ADD COLUMN lease_until timestamptz;
