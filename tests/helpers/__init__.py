"""Shared by tests: attacks, made classes, the exercise bank, boards of the class kit."""
