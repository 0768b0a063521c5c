"""The same number of configurations for every objective: where they are searched, who proposes them, and what may be seen meanwhile."""
