"""The push protocol over WebSocket."""
