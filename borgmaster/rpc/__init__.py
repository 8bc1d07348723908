"""The servicers of the API, thin over the core."""
