"""Notebooks, exercises and recordings, built from their sources (`course build`)."""
