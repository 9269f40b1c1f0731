"""The life of one delivery: outcomes, events, states, retry policy. Pure."""
