"""Running the model with permuted units, and finding what breaks it."""
