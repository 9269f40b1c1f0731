"""The envelope: its format, limits, content versions and casts. Pure."""
