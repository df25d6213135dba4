"""Ways to try and judge the software: the demo, its pictures, benchmarks and the paper's figures."""
