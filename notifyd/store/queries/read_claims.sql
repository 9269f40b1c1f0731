SELECT given.o, encode(claim.digest, 'hex')
  FROM jsonb_to_recordset(%(rows)s::jsonb) AS given(o bigint, i uuid)
  JOIN message_id AS claim ON claim.id = given.i
