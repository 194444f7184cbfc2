"""One reader for each data format: `read(request) -> named arrays that share their rows`."""
