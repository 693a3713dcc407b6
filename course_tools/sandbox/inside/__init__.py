"""What runs in the sandbox (copied there by `stage`): a few modules, no secrets."""
