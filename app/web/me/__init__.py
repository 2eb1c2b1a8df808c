"""Pages for everybody who is signed in: connections, tools, API tokens."""
