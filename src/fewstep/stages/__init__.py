"""One module a workflow stage: files in, files out; what the command line calls."""
