"""How the demo ends when its catalogue could not be opened."""

from concurrent.futures import Future
from contextlib import ExitStack

import pytest

from bluesky_streamrecon.errors import JobError, StorageError
from bluesky_streamrecon.evaluation.demo import _closing


def end(error):
    """End with this error, or none, while the catalogue has not started."""
    opening = Future()
    opening.set_exception(StorageError("the catalogue did not start"))
    with ExitStack() as stack:
        stack.push(_closing(opening))
        if error is not None:
            raise error


@pytest.mark.parametrize(
    ("error", "told"), [(JobError("interrupted"), "interrupted"), (None, "the catalogue did not start")]
)
def test_a_catalogue_that_did_not_start_is_told_unless_something_else_is_wrong(error, told):
    with pytest.raises((JobError, StorageError), match=told):
        end(error)
