"""We on the MCP wire."""
