"""Where requests go: pure wire codecs, header parsers, the fault table, and the HTTP transport."""
