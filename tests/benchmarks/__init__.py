"""Speed of Lab 1's endpoint, as ratios measured side by side: `python -m tests.benchmarks` (`make bench`)."""
