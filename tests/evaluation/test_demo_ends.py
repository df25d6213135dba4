"""How the demo ends when its catalogue could not be opened."""

from concurrent.futures import Future
from contextlib import ExitStack

import pytest

from bluesky_streamrecon.errors import JobError, StorageError
from bluesky_streamrecon.evaluation.demo import _closing


@pytest.mark.parametrize(
    ("error", "told"), [(JobError("interrupted"), "interrupted"), (None, "the catalogue did not start")]
)
def test_a_catalogue_that_did_not_start_is_told_unless_something_else_is_wrong(error, told):
    opening = Future()
    opening.set_exception(StorageError("the catalogue did not start"))
    with pytest.raises((JobError, StorageError), match=told), ExitStack() as stack:
        stack.push(_closing(opening))
        if error is not None:
            raise error
