"""Local and gs:// paths, files written whole, checksums, text files, cache folders."""
