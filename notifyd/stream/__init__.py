"""The stream engine: Faust with a ledger, topics, producers, dead letters."""
