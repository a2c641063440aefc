"""Adapter files: read by the letter of the format, checked, sealed, written."""
