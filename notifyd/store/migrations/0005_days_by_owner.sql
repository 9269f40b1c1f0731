-- `persist` makes the partitions of a day that has none, and for that alone it had to own all tables. The function
-- does it in the name of their owner now. Its names are looked up in the schema of the tables and nowhere else:
-- a caller's temporary table must not stand in for one of them.
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION ensure_day(date) SECURITY DEFINER SET search_path = %I, pg_temp', current_schema());
END
$$;
