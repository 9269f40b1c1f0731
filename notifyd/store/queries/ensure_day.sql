SELECT ensure_day(%(day)s::date)
