"""Health and metrics, and the public HTTP server."""
