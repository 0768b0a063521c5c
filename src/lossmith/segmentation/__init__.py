"""Objectives on whole masks."""

__all__: list[str] = []
