"""Speed of feddtl against the loop one would otherwise write; see README.md."""
