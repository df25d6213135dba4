"""The recon room."""
