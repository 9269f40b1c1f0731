-- Who was forgotten, when, on whose order, and how many rows that were; nothing of what they said.
CREATE TABLE forget_audit (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_digest text COLLATE "C" NOT NULL,   -- SHA-256 of the user id, hex: who knows the id finds the entry
    alias       text COLLATE "C" NOT NULL,   -- what stands in the place of the user id since
    actor       text NOT NULL,
    begun_at    timestamptz NOT NULL DEFAULT now(),
    ended_at    timestamptz,                 -- none: it was cut off, or is under way
    counts      jsonb NOT NULL DEFAULT '{}'
);

CREATE INDEX forget_audit_user ON forget_audit (user_digest, begun_at);
