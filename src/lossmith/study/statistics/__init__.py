"""What paired differences can show: tests, posteriors, rankings, and what they could show beforehand."""
