"""One file a role: wires the layers below into agents."""
