"""A small OAuth provider and a small MCP server, for `make demo` and the tests. Demo only.

Everything is kept in memory, the passwords are printed on the page, and both speak plain http on
this machine alone.
"""
