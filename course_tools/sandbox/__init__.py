"""Where a stranger's code runs: it gets inputs only, and plain values come back."""
