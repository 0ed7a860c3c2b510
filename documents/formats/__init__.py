"""One module per kind of file. Each has `read(path, report) -> Document`."""
