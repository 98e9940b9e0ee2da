"""The joblib backend. Skipped where joblib is not installed."""
