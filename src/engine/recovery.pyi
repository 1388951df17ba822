"""Nothing of recovery is called from Python."""
