"""Solutions, hidden checks and misconceptions of each exercise, and what tests them."""
