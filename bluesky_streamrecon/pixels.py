"""Types of pixels, and how to go from one to another without changing a value.

`numpy.astype` wraps what does not fit and makes 0 of NaN; whoever reads frames converts them by `exactly` instead.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.errors import DataError

__all__ = ["common_dtype", "exactly", "mean_dtype", "plain_dtype"]


def plain_dtype(dtype: Any) -> np.dtype[Any]:
    """Return the type in which frames of `dtype` are kept: little-endian, of a size that everybody reads.

    Booleans become unsigned bytes, floats of more than 64 bits become float64; all others keep kind and size.

    Raises
    ------
    DataError
        If pixels of this type are not intensities (complex numbers, text, records).

    Examples
    --------
    >>> [plain_dtype(name).str for name in (">u2", "?", "<f2")]
    ['<u2', '|u1', '<f2']
    """
    kind = np.dtype(dtype)
    if kind.kind not in "biuf":
        raise DataError(f"pixels of type {kind}: expected integers or floats; does the detector write intensities?")
    if kind.kind == "b":
        return np.dtype("u1")
    if kind.kind == "f" and kind.itemsize > 8:
        return np.dtype("<f8")
    return np.dtype(f"<{kind.kind}{kind.itemsize}")


def common_dtype(*dtypes: Any) -> np.dtype[Any]:
    """Return a type that holds the values of all `dtypes`.

    64-bit integers, signed and unsigned together or beside floats, share float64, which rounds above 2**53.

    Examples
    --------
    >>> common_dtype(">u2", "<f4").str, common_dtype("u4", "i4").str
    ('<f4', '<i8')
    """
    return plain_dtype(np.result_type(*(plain_dtype(dtype) for dtype in dtypes)))


def mean_dtype(dtype: Any) -> np.dtype[Any]:
    """Return the type of the mean of several exposures of `dtype`: float64 for float64, else float32."""
    return np.dtype("<f8") if plain_dtype(dtype).str == "<f8" else np.dtype("<f4")


def exactly(values: NDArray[Any], dtype: np.dtype[Any], where: str) -> NDArray[Any]:
    """Return `values` as `dtype`, each at its true value.

    Rounding to float32 or float64 is no change; whatever else would change is refused.

    Parameters
    ----------
    values : ndarray
        Pixels.
    dtype : dtype
        Type to return.
    where : str
        File and dataset, or whatever else they come from, for the error.

    Returns
    -------
    ndarray
        Contiguous; `values` itself if it has the type already.

    Raises
    ------
    DataError
        If a value does not fit: a number beyond the range of `dtype`, a fraction or NaN where it is an integer.
    """
    if values.dtype == dtype:
        return np.asarray(values, order="C")
    plain_dtype(values.dtype)
    with np.errstate(all="ignore"):
        result = np.asarray(values, dtype=dtype, order="C")
        if np.can_cast(values.dtype, dtype, "safe"):
            return result
        wrong = _changed(values, result)
    if wrong.any():
        first = tuple(int(n) for n in np.argwhere(wrong)[0])
        at = f" at {first}" if first else ""
        raise DataError(
            f"{where}: got {values[first]}{at}, {values.dtype.name}, which does not fit the type {dtype.name} that "
            f"was announced ({np.count_nonzero(wrong)} of {values.size} values do not); is the detector's data type "
            "set as it was when the run began?"
        )
    return result


def _changed(values: NDArray[Any], result: NDArray[Any]) -> NDArray[np.bool_]:
    wrong: NDArray[np.bool_]
    if result.dtype.kind == "f":
        if result.dtype.itemsize < 4:
            wrong = (result.astype(np.float64) != values) & ~(np.isnan(result) & np.isnan(values))
        else:
            wrong = np.isfinite(values) & ~np.isfinite(result)
        return wrong
    limits = np.iinfo(result.dtype)
    if values.dtype.kind == "f":
        wrong = ~((values >= float(limits.min)) & (values < float(limits.max) + 1.0) & (np.trunc(values) == values))
    else:
        wrong = ~((values >= limits.min) & (values <= limits.max))
    return wrong
