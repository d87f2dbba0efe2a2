"""What units do on data."""
