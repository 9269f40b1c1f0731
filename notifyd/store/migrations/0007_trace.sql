-- The trace that the producer of a message named, so that what is sent again later goes on in it. NULL: the id names it.
ALTER TABLE message ADD COLUMN traceparent text COLLATE "C";
