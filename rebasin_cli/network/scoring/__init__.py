"""What models are worth on data: the scores of one, and of the ensemble of several."""
