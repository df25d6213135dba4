"""Benchmarks, one module each.

Each has one public function that measures and gives frozen rows; nothing is printed and no argument is read from
the command line. A figure is the median of several samples, taken in turns with what it is compared to, and comes with
its spread. ``streamrecon bench`` shows them.
"""
