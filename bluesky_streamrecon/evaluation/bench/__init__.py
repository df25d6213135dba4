"""Benchmarks, one module each, with one public function that measures and returns a `Report`.

A figure is the median of several samples, taken in turns with what it is compared to (`harness.take_turns`), with its
spread. Nothing is printed here, and progress is logged; ``streamrecon bench`` shows both.
"""
