"""Health and metrics, the public HTTP server, and what is served there."""
