"""What only teachers run: hidden checks, release, sandbox, reports (see `docs/teaching`)."""
