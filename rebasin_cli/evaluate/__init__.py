"""What needs a forward pass: scores of a model on data, statistics, and corrections from them."""

from rebasin_cli.evaluate.batches import Batches
from rebasin_cli.evaluate.scores import Judge, Scores, cross_entropy_judge, own_judge
from rebasin_cli.evaluate.user_code import users_code

__all__ = ["Batches", "Judge", "Scores", "cross_entropy_judge", "own_judge", "users_code"]
