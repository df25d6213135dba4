"""In which order a scan visits its angles: values that print, compare and slice, made before anything moves."""

from bluesky_streamrecon.ordering._named import (
    fixed,
    golden_angle,
    interlaced,
    interleaved,
    listed,
    make_order,
    optimized_interleaved,
    order_names,
    places_in_order,
)
from bluesky_streamrecon.ordering._value import AngleOrder, Sweep, move_time

__all__ = [
    "AngleOrder",
    "Sweep",
    "fixed",
    "golden_angle",
    "interlaced",
    "interleaved",
    "listed",
    "make_order",
    "move_time",
    "optimized_interleaved",
    "order_names",
    "places_in_order",
]
