"""The tree that students get (`course release`), and what refuses to let a solution into it."""
