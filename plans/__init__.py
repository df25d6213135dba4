"""The plans room."""
