"""One run of a model, recorded operator by operator."""
