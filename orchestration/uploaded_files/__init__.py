"""The job `process_resource` and its sensor: uploaded files become chunks."""
