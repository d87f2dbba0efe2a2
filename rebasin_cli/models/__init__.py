"""Models to trace: a TARGET of the command line, or an object, to something that can be built."""

from rebasin_cli.models.subject import Example, Subject, without_memory
from rebasin_cli.models.target import subject
from rebasin_cli.models.transformers.shrink import shrunk
from rebasin_cli.models.user.user_model import subject_of

__all__ = ["Example", "Subject", "shrunk", "subject", "subject_of", "without_memory"]
