"""Loops only: every function here is compiled, checks nothing, and is called by a module that does."""
