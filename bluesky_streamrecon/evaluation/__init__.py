"""The demo, the replay of past runs, benchmarks (``bench``), and studies that make the paper's figures."""
