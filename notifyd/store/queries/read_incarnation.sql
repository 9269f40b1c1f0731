SELECT id FROM incarnation WHERE name = %(name)s
