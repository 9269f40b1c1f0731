"""The embedded broker and PostgreSQL of development."""
