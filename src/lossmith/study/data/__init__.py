"""The rows of a study: where they come from, how tables are read, how they are split and corrupted."""
